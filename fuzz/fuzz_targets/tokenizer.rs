//! Any bytes as a tokenizer.json: loading, encoding and decoding must not panic.
#![no_main]

use alula_tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_json(data, None, "fuzz.json") else { return };
    for parse_special in [true, false] {
        if let Ok(ids) = tokenizer.encode("Hello, 世界! it's 123 <s>", true, parse_special) {
            let whole = tokenizer.decode(&ids, false);
            let mut stream = tokenizer.stream(false);
            let stepped = ids.iter().map(|&id| stream.push(id)).collect::<String>() + &stream.finish();
            assert_eq!(stepped, whole);
        }
    }
});
