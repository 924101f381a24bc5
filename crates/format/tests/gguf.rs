//! GGUF files by gguf-py (`tools/goldens_format.py`) and broken ones by hand.

mod common;

use alula_format::gguf::{Array, Gguf, Strs, Value};
use alula_format::{Error, ErrorKind};
use alula_tensor::FORMATS;
use alula_testkit::{Golden, same_bits};
use common::{Bytes, Scratch, data, read};

fn open(bytes: Bytes) -> Result<Gguf, Error> {
    Gguf::from_bytes(bytes.0, "m.gguf")
}

fn refuse(bytes: Bytes) -> Error {
    open(bytes).expect_err("must be refused")
}

#[test]
fn metadata_of_every_type_reads_back() {
    for file in ["all.gguf", "version2.gguf"] {
        let g = Gguf::open(data(file)).expect("opens");
        assert_eq!(g.version(), if file == "all.gguf" { 3 } else { 2 });
        assert_eq!(g.file_size(), read(file).len() as u64);
        let m = &g.metadata;
        assert_eq!(m.str("general.architecture").expect("str"), "llama");
        assert_eq!(m.u32("test.u8").expect("u8"), 255);
        assert_eq!(m.need::<i64>("test.i8").expect("i8"), -128);
        assert_eq!(m.u64("test.u16").expect("u16"), 65535);
        assert_eq!(m.need::<i32>("test.i16").expect("i16"), -32768);
        assert_eq!(m.u32("test.u32").expect("u32"), u32::MAX);
        assert_eq!(m.need::<i32>("test.i32").expect("i32"), i32::MIN);
        assert_eq!(m.f32("test.f32").expect("f32"), 0.5);
        assert!(m.bool("test.bool").expect("bool"));
        assert_eq!(m.str("test.string").expect("string"), "grüße, 世界 🐦");
        assert_eq!(m.str("test.empty").expect("empty"), "");
        assert_eq!(m.u64("test.u64").expect("u64"), u64::MAX);
        assert_eq!(m.need::<i64>("test.i64").expect("i64"), i64::MIN);
        assert_eq!(m.need::<f64>("test.f64").expect("f64"), 1e300);

        assert_eq!(m.need::<Vec<u32>>("test.u8.array").expect("array"), [255; 3]);
        assert_eq!(m.i32s("test.i32.array").expect("array"), [i32::MIN; 3]);
        assert_eq!(m.f32s("test.f32.array").expect("array"), [0.5; 3]);
        assert_eq!(m.f32s("test.i8.array").expect("integers read as floats"), [-128.0; 3]);
        assert_eq!(m.need::<Vec<bool>>("test.bool.array").expect("array"), [true; 3]);
        let wide: Array<'_> = m.need("test.u64.array").expect("array");
        assert_eq!(wide.iter::<u64>().collect::<Vec<_>>(), [u64::MAX; 3]);
        let tokens = m.strs("test.tokens").expect("strings");
        assert_eq!(tokens.iter().collect::<Vec<_>>(), ["<s>", "", "▁a", "\n"]);
        assert_eq!((tokens.len(), tokens.get(2), tokens.get(4)), (4, Some("▁a"), None));
        let nested: Array<'_> = m.need("test.nested").expect("array");
        let rows: Vec<Vec<i32>> = nested.iter().collect();
        assert_eq!(rows, [vec![1, 2, 3], vec![4], vec![5, 6]]);

        let keys: Vec<&str> = m.iter().map(|(k, _)| k).collect();
        assert_eq!(keys.len(), m.len());
        assert!(keys.iter().position(|k| *k == "test.u8") < keys.iter().position(|k| *k == "test.i8"));
        assert!(matches!(m.get("test.u64"), Some(Value::Uint(u64::MAX))) && m.get("absent").is_none());
    }
}

#[test]
fn getters_name_key_value_and_want() {
    let g = Gguf::open(data("all.gguf")).expect("opens");
    let m = &g.metadata;
    assert_eq!(m.find::<u32>("absent").expect("absent is no error"), None);
    let file = data("all.gguf").display().to_string();
    let fix = "convert the model again with a current converter";
    let e = m.u32("absent").expect_err("absent");
    assert_eq!(e.to_string(), format!("{file}: has no metadata key `absent`; {fix}"));
    assert_eq!((e.kind(), e.file(), e.field()), (ErrorKind::Missing, &*file, "absent"));
    let e = m.u32("test.i8").expect_err("negative");
    assert_eq!(
        e.to_string(),
        format!("{file}: metadata key `test.i8` is -128, not a number from 0 to 4294967295; {fix}")
    );
    assert_eq!(e.kind(), ErrorKind::Type);
    for (key, what) in
        [("test.u64", "too large"), ("test.f32", "float"), ("test.string", "string"), ("test.bool", "bool")]
    {
        assert!(m.u32(key).is_err(), "{what}");
    }
    assert!(m.bool("test.u8").is_err() && m.str("test.u8").is_err() && m.strs("test.u8.array").is_err());
    assert!(m.i32s("test.string.array").is_err() && m.i32s("test.u64.array").is_err() && m.f32("test.bool").is_err());
}

#[test]
fn tensors_of_every_type_decode_as_gguf_py_does() {
    let want = Golden::open(data("all.safetensors"));
    let g = Gguf::open(data("all.gguf")).expect("opens");
    assert_eq!(g.tensors().len(), FORMATS.len() + 1);
    for format in FORMATS {
        let name = format!("t.{}", format.name);
        let tensor = g.tensor(&name).expect("reads");
        assert_eq!((tensor.dtype(), tensor.shape().to_vec()), (format.dtype, want.shape(&name)), "{name}");
        let (got, want) = (tensor.to_f32(), want.f32(&name));
        assert!(got.len() == want.len() && got.iter().zip(&want).all(|(a, b)| same_bits(*a, *b)), "{name}");
        assert_eq!(g.info(&name).and_then(|i| i.range()).map(|r| r.start % 64), Some(0));
    }
    let info = g.info("t.IQ2_XS").expect("listed");
    assert_eq!((info.dtype(), info.type_name(), info.shape()), (None, "IQ2_XS", &[1, 2, 256][..]));
    assert_eq!(info.range().map(|r| r.len()), Some(148));
    let e = g.tensor("t.IQ2_XS").expect_err("not read");
    assert_eq!((e.kind(), e.field()), (ErrorKind::Unsupported, "t.IQ2_XS"));
    let file = data("all.gguf").display().to_string();
    let works: Vec<&str> = FORMATS.iter().map(|f| f.name).collect();
    let works = works.join(", ");
    let says = format!("{file}: tensor `t.IQ2_XS` is of type IQ2_XS, which Alula does not read; these work: {works}");
    assert_eq!(e.to_string(), says);
    assert_eq!(g.tensor("absent").expect_err("absent").kind(), ErrorKind::Missing);
}

#[test]
fn a_vocabulary_without_tensors_opens() {
    let g = Gguf::open(data("vocab.gguf")).expect("opens");
    assert_eq!(g.tensors().len(), 0);
    assert_eq!(g.metadata.strs("tokenizer.ggml.tokens").expect("tokens").iter().collect::<String>(), "ab");
}

#[test]
fn unknown_tensor_types_do_not_hide_the_metadata() {
    let g = open(Bytes::header(3, 1, 0).tensor("x", &[7], 999, 0).align(32)).expect("opens");
    let info = g.info("x").expect("listed");
    assert_eq!((info.type_name(), info.range()), ("number 999", None));
    assert!(g.tensor("x").expect_err("no").to_string().contains("is of type number 999"));
}

#[test]
fn split_models_open_from_their_first_part() {
    let g = Gguf::open(data("split-00001-of-00003.gguf")).expect("opens");
    assert_eq!((g.parts(), g.tensors().len()), (3, 5));
    for i in 0..5u8 {
        let first = g.tensor(&format!("t{i}")).expect("tensor").to_f32()[0];
        assert_eq!(first, 10.0 * f32::from(i));
    }
    let e = Gguf::open(data("split-00002-of-00003.gguf")).expect_err("a later part");
    assert!(e.to_string().ends_with("is part 2 of 3; open the first part, `split-00001-of-00003.gguf`"), "{e}");

    let scratch = Scratch::new("split");
    let part = |i: usize| read(&format!("split-0000{i}-of-00003.gguf"));
    let first = scratch.write("m-00001-of-00003.gguf", part(1));
    scratch.write("m-00003-of-00003.gguf", part(3));
    let e = Gguf::open(&first).expect_err("one is missing");
    assert!(e.file().ends_with("m-00002-of-00003.gguf") && e.kind() == ErrorKind::Missing, "{e}");
    assert!(e.to_string().ends_with("part 2 of 3 of the model cannot be opened; download every part into one folder"));
    scratch.write("m-00002-of-00003.gguf", part(3));
    let e = Gguf::open(&first).expect_err("a part twice");
    assert!(e.to_string().contains("is not part 2 of 3 of this model"), "{e}");
    let renamed = scratch.write("renamed.gguf", part(1));
    let e = Gguf::open(renamed).expect_err("no siblings to guess");
    assert!(e.to_string().contains("rename it so that it ends in `-00001-of-00003.gguf`"), "{e}");
    assert!(Gguf::from_bytes(part(1), "memory").is_err());
}

#[test]
fn other_files_are_refused_by_what_they_are() {
    let says = |e: Error, text: &str| assert!(e.to_string().contains(text), "{e}");
    says(
        Gguf::open(data("big.gguf")).expect_err("big-endian"),
        "is a big-endian GGUF file; get the little-endian file",
    );
    says(Gguf::open(data("absent.gguf")).expect_err("absent"), "check the path");
    says(Gguf::open(data("")).expect_err("a folder"), "is a folder, not a file");
    says(Gguf::open(data("all.safetensors")).expect_err("another format"), "does not begin with `GGUF` (at byte 0)");
    says(refuse(Bytes(vec![])), "does not begin with `GGUF`");
    says(refuse(Bytes::header(1, 0, 0)), "is GGUF version 1; convert");
    says(refuse(Bytes::header(4, 0, 0)), "is GGUF version 4; versions 2 and 3 work");
}

#[test]
fn broken_headers_are_refused_before_anything_is_allocated() {
    let says = |bytes: Bytes, text: &str| {
        let e = refuse(bytes);
        assert!(e.to_string().starts_with("m.gguf: ") && e.to_string().contains(text), "{e}");
    };
    let one_key = Bytes::header(3, 0, 1);
    let one_tensor = Bytes::header(3, 1, 0);
    says(Bytes::header(3, 0, u64::MAX), "has 18446744073709551615 metadata keys but only 0 bytes follow");
    says(Bytes::header(3, 1 << 40, 0).zeros(64), "1099511627776 tensors but only 64 bytes follow");
    says(one_key.clone().str("").u32(0).zeros(9), "a metadata key is empty (at byte 24)");
    says(one_key.clone().str(b"\xff\xfe").u32(0).zeros(9), "is not UTF-8 (at byte 32)");
    says(one_key.clone().str("k").u32(13).zeros(9), "`k` has the unknown value type 13 (at byte 33)");
    says(one_key.clone().str("k").u32(4).zeros(3), "`k` needs 4 bytes but the file ends after 3");
    says(one_key.clone().str("k").u32(8).u64(9).zeros(8), "`k` is a string of 9 bytes but only 8 follow");
    says(one_key.clone().str("k").u32(8).u64(u64::MAX).zeros(8), "18446744073709551615 bytes but only 8 follow");
    says(one_key.clone().str("k").u32(8).str(b"ab\xc3"), "`k` is not UTF-8 (at byte 47)");
    says(
        one_key.clone().str("k").u32(9).u32(5).u64(u64::MAX / 2).zeros(8),
        "`k` is an array of 9223372036854775807 items but only 8 bytes",
    );
    says(
        one_key.clone().str("k").u32(9).u32(8).u64(3).zeros(16),
        "`k` is an array of 3 items but only 16 bytes follow",
    );
    let deep = (0..20).fold(one_key.clone().str("k").u32(9), |b, _| b.u32(9).u64(1)).u32(0).u64(0).zeros(12);
    says(deep, "arrays in arrays more than 8 deep");
    let pair = |b: Bytes, value: u32| b.str("general.alignment").u32(4).u32(value);
    says(pair(one_key.clone(), 24), "`general.alignment` is 24, which is no power of two");
    says(pair(one_key.clone(), 0), "is 0, which is no power of two");
    says(pair(pair(Bytes::header(3, 0, 2), 32), 32), "metadata key `general.alignment` comes twice");

    says(one_tensor.clone().tensor("x", &[1; 5], 0, 0), "tensor `x` has 5 dimensions, more than 4");
    says(one_tensor.clone().tensor("x", &[4, 0], 0, 0), "tensor `x` has a dimension of 0");
    says(one_tensor.clone().tensor("x", &[u64::MAX], 0, 0), "a negative or impossible dimension");
    says(
        one_tensor.clone().tensor("x", &[1 << 40, 1 << 40], 0, 0),
        "the impossible shape [1099511627776, 1099511627776]",
    );
    says(one_tensor.clone().tensor("x", &[48], 2, 0), "rows of 48 elements, which are not whole blocks of 32 (Q4_0)");
    says(one_tensor.clone().tensor("x", &[8], 0, 8).zeros(99), "lies at 8, which is not aligned to 32");
    says(one_tensor.clone().tensor("x", &[8], 0, u64::MAX - 31).zeros(99), "lies at the impossible offset");
    let two = |at| Bytes::header(3, 2, 0).tensor("x", &[16], 0, 0).tensor("y", &[8], 0, at).align(32).zeros(128);
    assert!(open(two(64)).is_ok());
    says(two(32), "tensors `x` and `y` share bytes");
    let same = Bytes::header(3, 2, 0).tensor("x", &[8], 0, 0).tensor("x", &[8], 0, 32).align(32).zeros(64);
    says(same, "tensor `x` comes twice");
    let long = Bytes::header(3, 1, 0).tensor("blk.0.attn_q.weight", &[1024], 0, 0).align(32).zeros(100);
    let len = long.0.len();
    let e = refuse(long);
    let what = format!("tensor `blk.0.attn_q.weight` ends at byte {} but the file has {len} bytes", len - 100 + 4096);
    assert_eq!(e.to_string(), format!("m.gguf: {what}; the file is truncated, download it again"));
}

#[test]
fn names_in_messages_are_cut_and_cannot_move_the_cursor() {
    let name = format!("\x1b[2J{}", "é".repeat(2000));
    let message = refuse(Bytes::header(3, 1, 0).tensor(&name, &[0], 0, 0)).to_string();
    assert!(message.contains("`\\u{1b}[2Jé") && message.contains("é…`") && message.len() < 400, "{message}");
}

#[test]
fn strings_that_are_not_utf8_are_bytes_all_the_same() {
    let bytes =
        Bytes::header(3, 0, 2).str("k").u32(9).u32(8).u64(2).str("ok").str(b"\xff").str("none").u32(9).u32(8).u64(0);
    let g = open(bytes).expect("opens");
    let array: Array<'_> = g.metadata.need("k").expect("array");
    assert_eq!((array.bytes(1), array.get(1).is_none(), array.len()), (Some(&b"\xff"[..]), true, 2));
    let e = g.metadata.strs("k").expect_err("not UTF-8");
    assert!(e.to_string().contains("metadata key `k` is not UTF-8 in item 1"), "{e}");
    let none: Strs<'_> = g.metadata.need("none").expect("empty");
    assert!(none.is_empty() && none.iter().next().is_none());
}

#[test]
fn the_shared_model_opens() {
    let Some(path) = alula_testkit::shared("models/stories260k/stories260k.gguf") else { return };
    let g = Gguf::open(path).expect("opens");
    assert_eq!(g.metadata.str("general.architecture").expect("architecture"), "llama");
    assert_eq!(g.metadata.strs("tokenizer.ggml.tokens").expect("tokens").len(), 512);
    for info in g.tensors() {
        assert!(g.tensor(info.name()).expect("reads").to_f32().iter().all(|v| v.is_finite()));
    }
}
