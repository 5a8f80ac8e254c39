#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ikisocket_fuzz::bus::run(data));
