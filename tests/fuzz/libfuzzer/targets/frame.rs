//! See `recado_fuzz::frame`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| recado_fuzz::frame(bytes));
