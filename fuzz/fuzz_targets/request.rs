//! The target `request` of cargo-fuzz: any bytes, for `ctflow_fuzz::request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ctflow_fuzz::request(bytes));
