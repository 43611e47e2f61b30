#![no_main]
//! See `recado_fuzz::mail`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| recado_fuzz::mail(bytes));
