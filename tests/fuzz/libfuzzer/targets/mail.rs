//! See `recado_fuzz::mail`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| recado_fuzz::mail(bytes));
