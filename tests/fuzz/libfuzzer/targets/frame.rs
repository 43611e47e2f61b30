#![no_main]
//! See `recado_fuzz::frame`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| recado_fuzz::frame(bytes));
