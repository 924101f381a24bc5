//! Safetensors and model folders by safetensors-py (`tools/goldens_format.py`), and broken ones by hand.

mod common;

use alula_format::hf::Folder;
use alula_format::safetensors::{self, SafeTensors};
use alula_format::{Error, ErrorKind};
use alula_tensor::DType;
use alula_testkit::Golden;
use common::{Scratch, data};

/// A safetensors file of this header and `n` bytes of zeros.
fn file(header: &str, n: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + n, 0);
    bytes
}

fn open(header: &str, n: usize) -> Result<SafeTensors, Error> {
    SafeTensors::from_bytes(file(header, n), "m.safetensors")
}

#[test]
fn a_sharded_folder_reads_back() {
    let folder = Folder::open(data("hf")).expect("opens");
    let config = folder.config().expect("config");
    assert_eq!(config["rope_theta"], 10000.0);
    assert_eq!(config["time_step_limit"][1]["__float__"], "Infinity");
    assert_eq!(folder.generation_config.as_ref().map(|c| c["eos_token_id"][1].as_u64()), Some(Some(2)));
    assert_eq!(folder.chat_template(), Some("{{ messages }}"));
    assert!(folder.special_tokens_map.is_none());
    assert_eq!(folder.tokenizer().expect_err("has none").field(), "tokenizer.json");

    let t = folder.tensors().expect("opens");
    assert_eq!((t.parts(), t.tensors().len()), (2, 5));
    let a = t.tensor("a").expect("reads");
    assert_eq!((a.shape(), a.to_f32()), (&[2, 3][..], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    let half = t.tensor("half").expect("reads");
    assert_eq!((half.dtype(), half.to_f32()), (DType::F16, vec![0.5, -2.0]));
    assert_eq!(t.tensor("b").expect("reads").to_f32(), [0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0]);
    assert_eq!(t.tensor("scalar").expect("reads").to_f32(), [7.0]);
    assert_eq!(t.info("ids").map(|i| (i.dtype(), i.type_name(), i.part())), Some((None, "I64", 1)));
    let e = t.tensor("ids").expect_err("integers");
    assert!(e.file().ends_with("model-00002-of-00002.safetensors") && e.kind() == ErrorKind::Unsupported);
    assert!(
        e.to_string().ends_with("tensor `ids` is of type I64, which Alula does not read; these work: F32, F16, BF16"),
        "{e}"
    );
    assert!(t.tensor("c").expect_err("absent").to_string().contains("has no tensor `c`"));
}

#[test]
fn what_is_written_reads_back_here_and_elsewhere() {
    let scratch = Scratch::new("write");
    let path = scratch.0.join("out.safetensors");
    let values: Vec<f32> = vec![1.5, f32::NAN, -0.0, f32::MIN_POSITIVE / 2.0, f32::INFINITY, 6.0];
    let tensors: [(&str, &[usize], &[f32]); 3] =
        [("logits", &[2, 3], &values), ("empty", &[0, 4], &[]), ("quo\"te", &[], &[1.0])];
    safetensors::write(&path, &tensors).expect("writes");
    safetensors::write(&path, &tensors).expect("replaces");
    assert_eq!(std::fs::read_dir(&scratch.0).expect("folder").count(), 1, "nothing temporary stays");
    let (ours, other) = (SafeTensors::open(&path).expect("opens"), Golden::open(&path));
    for (name, shape, values) in tensors {
        let tensor = ours.tensor(name).expect("reads");
        assert_eq!((tensor.shape(), &*other.shape(name)), (shape, shape));
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&tensor.to_f32()), bits(values));
        assert_eq!(bits(&other.f32(name)), bits(values));
    }
    assert!(safetensors::write(&path, &[("x", &[2], &[1.0])]).is_err());
    let e = safetensors::write(scratch.0.join("no/such/folder"), &[]).expect_err("no folder");
    assert_eq!(e.kind(), ErrorKind::Io);
}

#[test]
fn broken_files_say_what_is_wrong() {
    let says = |result: Result<SafeTensors, Error>, text: &str| {
        let e = result.expect_err(text);
        assert!(e.to_string().starts_with("m.safetensors: ") && e.to_string().contains(text), "{e}");
    };
    let raw = |bytes: &[u8]| SafeTensors::from_bytes(bytes.to_vec(), "m.safetensors");
    says(raw(b"1234567"), "has no header length (at byte 0)");
    says(
        raw(&u64::MAX.to_le_bytes()),
        "says that its header has 18446744073709551615 bytes but only 0 follow (at byte 0)",
    );
    says(open("{\"a\": nonsense}", 0), "is not valid JSON: expected ident (at byte 15)");
    says(open("[]", 0), "is not valid JSON: invalid type: sequence, expected an object of tensors");
    let entry = |dtype: &str, shape: &str, at: &str| {
        format!("{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{at}}}")
    };
    let one = |dtype: &str, shape: &str, at: &str| open(&format!("{{\"x\":{}}}", entry(dtype, shape, at)), 16);
    assert!(one("F32", "[2,2]", "[0,16]").is_ok());
    says(one("F32", "[2,2]", "[0,12]"), "tensor `x` has shape [2, 2] of F32 but 12 bytes");
    says(one("F32", "[2,2]", "[16,0]"), "has the impossible shape [2, 2] at 16..0");
    says(one("F32", "[2,3]", "[0,24]"), "but the file has");
    says(one("F32", "[4611686018427387904,4]", "[0,0]"), "impossible shape");
    says(one("F32", "[4611686018427387904,2]", "[0,0]"), "but 0 bytes");
    says(one("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), "a list of at most 8 dimensions");
    says(one("F32", "[-1]", "[0,4]"), "is not valid JSON: invalid value");
    says(one("F32", "[1]", "[18446744073709551612,18446744073709551615]"), "but 3 bytes");
    says(one("F32", "[1]", "[18446744073709551611,18446744073709551615]"), "impossible size");
    let unknown = one("F5", "[2]", "[0,1]").expect("opens");
    assert!(unknown.tensor("x").expect_err("unknown").to_string().contains("is of type F5"));
    let two = |name: &str, at: &str| {
        open(&format!("{{\"x\":{},\"{name}\":{}}}", entry("F32", "[2]", "[0,8]"), entry("F32", "[2]", at)), 16)
    };
    assert!(two("y", "[8,16]").is_ok());
    says(two("y", "[4,12]"), "tensors `x` and `y` share bytes");
    says(two("x", "[8,16]"), "tensor `x` comes twice");
}

#[test]
fn an_index_cannot_reach_out_of_its_folder_or_promise_too_much() {
    let scratch = Scratch::new("index");
    scratch.write("s.safetensors", file("{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4));
    let index = |map: &str| {
        let path = scratch.write("model.safetensors.index.json", format!("{{\"weight_map\": {map}}}"));
        SafeTensors::open(path)
    };
    assert_eq!(index("{\"x\": \"s.safetensors\"}").expect("opens").tensors().len(), 1);
    for outside in ["../s.safetensors", "/etc/passwd", "a/s.safetensors", "..", ".", "", "a\\\\b", "c:s", "x\\u0000"] {
        let e = index(&format!("{{\"x\": \"{outside}\"}}")).expect_err(outside);
        assert!(e.to_string().contains("which is not a plain file name"), "{e}");
    }
    let e = index("{\"x\": \"s.safetensors\", \"y\": \"s.safetensors\"}").expect_err("y is nowhere");
    assert!(e.to_string().contains("lists tensor `y` in `s.safetensors`, which has no such tensor"), "{e}");
    let e = index("{\"x\": \"t.safetensors\"}").expect_err("no such shard");
    assert!(e.to_string().contains("names the shard `t.safetensors`") && e.kind() == ErrorKind::Missing, "{e}");
    assert!(index("{\"x\": 5}").expect_err("no name").to_string().contains("is not valid JSON"));
    assert!(SafeTensors::open(scratch.0.join("absent.index.json")).is_err());
}

#[test]
fn folders_say_what_they_lack() {
    let scratch = Scratch::new("folder");
    let open = || Folder::open(&scratch.0);
    let empty = open().expect("an empty folder");
    assert!(
        empty.config().expect_err("none").to_string().contains("has no config.json; download the whole model folder")
    );
    assert_eq!(empty.tensors().expect_err("none").kind(), ErrorKind::Missing);
    assert_eq!(empty.chat_template(), None);
    scratch.write("tokenizer_config.json", "{\"chat_template\": \"old\"}");
    assert_eq!(open().expect("opens").chat_template(), Some("old"));
    scratch.write("chat_template.jinja", "new");
    assert_eq!(open().expect("opens").chat_template(), Some("new"));
    scratch.write("chat_template.jinja", b"ab\xff");
    let e = open().expect_err("not UTF-8");
    assert!(e.file().ends_with("chat_template.jinja") && e.offset() == Some(2), "{e}");
    scratch.write("chat_template.jinja", "");
    scratch.write("config.json", "{\n\"a\": [1, 2,\n");
    let e = open().expect_err("cut short");
    assert!(e.file().ends_with("config.json") && e.to_string().contains("is not valid JSON: EOF while parsing"), "{e}");
    scratch.write("config.json", "[]");
    assert!(open().expect_err("no object").to_string().contains("holds no JSON object"));
    let file = scratch.write("plain", "");
    assert!(Folder::open(&file).expect_err("a file").to_string().contains("is not a folder"));
    assert!(Folder::open(scratch.0.join("absent")).expect_err("absent").to_string().contains("check the path"));
}

#[test]
fn the_shared_folder_opens() {
    let Some(path) = alula_testkit::shared("models/stories260k/hf") else { return };
    let folder = Folder::open(path).expect("opens");
    assert_eq!(folder.config().expect("config")["model_type"], "llama");
    assert!(folder.tokenizer().is_ok());
    let tensors = folder.tensors().expect("weights");
    assert!(tensors.tensors().all(|i| tensors.tensor(i.name()).is_ok()));
}
