//! Any bytes as a configuration file must not panic.
#![no_main]

use alula_format::hf::parse_config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = parse_config(data, "fuzz.json");
});
