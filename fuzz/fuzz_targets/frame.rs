//! The target `frame` of cargo-fuzz: any bytes, for `ctflow_fuzz::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ctflow_fuzz::frame(bytes));
