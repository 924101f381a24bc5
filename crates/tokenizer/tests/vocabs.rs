//! llama.cpp's published vocabularies: every `ggml-vocab-*.gguf` with `.inp` and `.out` beside it gives the same ids.
//! They are megabytes, so the folder is named by `ALULA_VOCABS` (`tools/vocabs.sh DIR` fetches them).

use alula_format::gguf::Gguf;
use alula_tokenizer::Tokenizer;
use std::path::PathBuf;

/// The vocabularies of the folder, or none with a line that says so.
fn vocabs() -> Vec<PathBuf> {
    let Some(dir) = std::env::var_os("ALULA_VOCABS") else {
        println!("skipped: ALULA_VOCABS names no folder of ggml-vocab-*.gguf (see tools/vocabs.sh)");
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&dir)
        .expect("ALULA_VOCABS is a folder")
        .map(|e| e.expect("readable").path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ggml-vocab-")))
        .filter(|p| p.extension().is_some_and(|e| e == "gguf"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "ALULA_VOCABS holds no ggml-vocab-*.gguf");
    paths
}

fn load(path: &std::path::Path) -> Tokenizer {
    let name = path.display().to_string();
    let gguf = Gguf::open(path).unwrap_or_else(|e| panic!("{e}"));
    Tokenizer::from_gguf(&gguf.metadata, &name).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn published_expectations() {
    let mut wrong = Vec::new();
    for path in vocabs() {
        let beside = |ext: &str| path.with_extension(format!("gguf.{ext}"));
        let (Ok(inp), Ok(out)) = (std::fs::read_to_string(beside("inp")), std::fs::read_to_string(beside("out")))
        else {
            continue;
        };
        let tokenizer = load(&path);
        let texts: Vec<&str> = inp.split("\n__ggml_vocab_test__\n").collect();
        let ids: Vec<Vec<u32>> =
            out.lines().map(|l| l.split_whitespace().map(|n| n.parse().expect("a number")).collect()).collect();
        // The last separator may be followed by nothing.
        assert!(
            texts.len() == ids.len() || texts.len() == ids.len() + 1,
            "{}: {} texts, {} lines",
            path.display(),
            texts.len(),
            ids.len()
        );
        for (text, want) in texts.iter().zip(&ids) {
            let got =
                tokenizer.encode(text, false, false).unwrap_or_else(|e| panic!("{}: {text:?}: {e}", path.display()));
            if got != *want {
                wrong.push(format!(
                    "{} {text:?}\n  got  {got:?}\n  want {want:?}",
                    path.file_name().expect("named").display()
                ));
            }
        }
        println!(
            "{}: {} texts, {} tokens, {}",
            path.file_name().expect("named").display(),
            ids.len(),
            tokenizer.vocab_size(),
            tokenizer.kind()
        );
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn vocabularies_load_fast_and_give_texts_back() {
    let texts = [
        "Hello, y'all! How are you 😁 ?我想在apple工作1314151天～",
        "  a\n\n\t b é\u{301} \u{0} ½ ٣٤",
        "",
        " ",
        "\u{feff}fi",
    ];
    for path in vocabs() {
        let start = std::time::Instant::now();
        let tokenizer = load(&path);
        let took = start.elapsed();
        println!("{}: {} tokens in {took:?}", path.file_name().expect("named").display(), tokenizer.vocab_size());
        if !matches!(tokenizer.kind(), "bpe" | "sentencepiece") {
            continue;
        }
        for text in texts {
            let ids = tokenizer.encode(text, true, true).expect("encodes");
            let decoded = tokenizer.decode(&ids, true);
            assert_eq!(decoded, text, "{}", path.display());
            let mut stream = tokenizer.stream(true);
            let streamed: String = ids.iter().map(|&id| stream.push(id)).collect::<String>() + &stream.finish();
            assert_eq!(streamed, decoded);
        }
    }
}
