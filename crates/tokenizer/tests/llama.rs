//! llama.cpp itself, on random Unicode text, for its vocabularies and every `pre` name: ids (three ways), ends, control
//! tokens. The folder is named by `ALULA_LLAMA_SUITE` and written by `tools/tokenizer_llama.py`.

use alula_format::gguf::Gguf;
use alula_tokenizer::Tokenizer;

#[test]
fn as_llama_cpp() {
    let Some(dir) = std::env::var_os("ALULA_LLAMA_SUITE").map(std::path::PathBuf::from) else {
        println!("skipped: ALULA_LLAMA_SUITE names no folder (see tools/tokenizer_llama.py)");
        return;
    };
    let texts: Vec<String> =
        serde_json::from_slice(&std::fs::read(dir.join("texts.json")).expect("texts")).expect("JSON");
    let mut names: Vec<String> = std::fs::read_dir(&dir)
        .expect("a folder")
        .filter_map(|e| e.expect("readable").file_name().to_string_lossy().strip_suffix(".out").map(str::to_owned))
        .collect();
    names.sort();
    let mut wrong = Vec::new();
    for name in &names {
        let gguf = Gguf::open(dir.join(format!("{name}.gguf"))).unwrap_or_else(|e| panic!("{e}"));
        let tokenizer = Tokenizer::from_gguf(&gguf.metadata, name).unwrap_or_else(|e| panic!("{e}"));
        let out = std::fs::read_to_string(dir.join(format!("{name}.out"))).expect("readable");
        let mut lines = out.lines();
        let ids = |line: &str| line.split_whitespace().map(|n| n.parse().expect("an id")).collect::<Vec<u32>>();
        let mut bad = 0;
        for text in &texts {
            for (add, parse) in [(false, false), (true, false), (true, true)] {
                let want = ids(lines.next().expect("a line"));
                let got = tokenizer.encode(text, add, parse).unwrap_or_default();
                if got != want {
                    bad += 1;
                    if bad <= 2 {
                        wrong.push(format!("{name} {add} {parse} {text:?}\n  got  {got:?}\n  want {want:?}"));
                    }
                }
            }
        }
        let ends = ids(lines.next().and_then(|l| l.strip_prefix("EOG")).expect("ends"));
        let control = ids(lines.next().and_then(|l| l.strip_prefix("CTL")).expect("control tokens"));
        let ours: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(|&id| tokenizer.is_special(id)).collect();
        if tokenizer.end_ids() != ends || ours != control {
            wrong.push(format!(
                "{name} ends {:?}, want {ends:?}; {} control tokens, want {}",
                tokenizer.end_ids(),
                ours.len(),
                control.len()
            ));
        }
        let special = lines.next().expect("ids").to_owned();
        let id = |id: Option<u32>| id.map_or(-1, i64::from);
        let mine = format!("IDS {} {}", id(tokenizer.bos()), id(tokenizer.eos()));
        if !special.starts_with(&mine) {
            wrong.push(format!("{name} {mine}, want {special}"));
        }
        let mut hash = 5381u64;
        for id in 0..tokenizer.vocab_size() as u32 {
            for b in tokenizer.token_bytes(id).into_iter().chain([255]) {
                hash = hash.wrapping_mul(33).wrapping_add(u64::from(b));
            }
        }
        // These have tokens that are not in GPT-2's alphabet; llama.cpp shows them as `[UNK_BYTE_0x..]`, we as themselves.
        if lines.next() != Some(&format!("PIECES {hash}"))
            && !["ggml-vocab-command-r", "pre-whitespace"].contains(&name.as_str())
        {
            wrong.push(format!("{name}: the tokens stand for other bytes"));
        }
    }
    println!("{} vocabularies, {} texts", names.len(), texts.len());
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
