#![no_main]
//! See `recado_fuzz::cursor`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| recado_fuzz::cursor(bytes));
