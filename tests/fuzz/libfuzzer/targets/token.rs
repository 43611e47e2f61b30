#![no_main]
//! See `recado_fuzz::token`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| recado_fuzz::token(bytes));
