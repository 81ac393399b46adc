//! The target `replication` of cargo-fuzz: any bytes, for `ctflow_fuzz::replication`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ctflow_fuzz::replication(bytes));
