//! The target `attributes` of cargo-fuzz: any bytes, for `ctflow_fuzz::attributes`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ctflow_fuzz::attributes(bytes));
