use super::file::write;
use super::*;
use alula_kernels::Pool;
use alula_simd::Cpu;
use alula_tensor::DType;
use serde_json::{Value, json};
use std::sync::Arc;

/// An empty folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("alula-kept-{}-{name}", std::process::id()));
    _ = fs::remove_dir_all(&path);
    path
}

fn keep(folder: &Path, source: &str) -> Keep {
    let (name, source) = ("a model / of mine".to_owned(), source.to_owned());
    Keep { folder: folder.to_owned(), name, source, identity: 7, files: Vec::new(), least: 0 }
}

const WANTED: [Wanted<'static>; 2] = [("first", 20, 64), ("second", 3, 70)];

fn with<R>(f: impl FnOnce(Ctx<'_>) -> R) -> R {
    f(Ctx { cpu: Cpu::all()[0], pool: &Pool::new(1) })
}

/// Two matrices, one of them in a format of blocks.
fn parts() -> Vec<Part> {
    let pack = |name: &str, dtype: DType, rows: usize, cols: usize| {
        let bytes: Vec<u8> = (0..rows * cols / dtype.format().block * dtype.format().bytes).map(|i| i as u8).collect();
        let matrix = with(|ctx| Arc::new(Packed::new(ctx, dtype, rows, cols, &bytes)));
        Part { name: name.to_owned(), dtype, matrix }
    };
    vec![pack("first", DType::Q8_0, 20, 64), pack("second", DType::F32, 3, 70)]
}

fn load(keep: &Keep) -> Option<Vec<Packed>> {
    Some(with(|ctx| keep.load(ctx, &WANTED))?.0)
}

/// Whether what is loaded, if anything is, is what was saved.
fn right(loaded: Option<&Vec<Packed>>, parts: &[Part]) -> bool {
    loaded.is_none_or(|l| l.iter().zip(parts).all(|(l, p)| l.as_bytes() == p.matrix.as_bytes()))
}

/// Replaces a file, as this process may have mapped it.
fn replace(path: &Path, bytes: &[u8]) {
    _ = fs::remove_file(path);
    fs::write(path, bytes).expect("written");
}

#[test]
fn what_is_saved_is_loaded() {
    let (folder, parts) = (folder("saved"), parts());
    let keep = keep(&folder, "here");
    assert!(load(&keep).is_none());
    keep.write(&parts).expect("saved");
    let loaded = load(&keep).expect("all of it");
    assert!(right(Some(&loaded), &parts) && loaded[0].quantized() && !loaded[1].quantized());
    // Other matrices than it has.
    for wanted in [("third", 20, 64), ("first", 37, 64), ("first", 20, 96), ("first", usize::MAX, 64)] {
        assert!(with(|ctx| keep.load(ctx, &[WANTED[1], wanted])).is_none(), "{wanted:?}");
    }
    // Of another model with the same name, also where its file is in the place.
    let other = Keep { identity: 8, ..keep.clone() };
    assert!(load(&other).is_none());
    fs::copy(keep.path(), other.path()).expect("copied");
    assert!(load(&other).is_none());
    // Saved anew over a file that is mapped.
    keep.write(&parts).expect("saved");
    assert!(right(Some(&loaded), &parts) && right(load(&keep).as_ref(), &parts));
    fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn no_change_of_a_file_is_taken_for_weights() {
    let (folder, parts) = (folder("changed"), parts());
    let keep = keep(&folder, "here");
    keep.write(&parts).expect("saved");
    let (path, good) = (keep.path(), fs::read(keep.path()).expect("read"));
    let mut refused = 0;
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        replace(&path, &bad);
        let loaded = load(&keep);
        refused += usize::from(loaded.is_none());
        assert!(right(loaded.as_ref(), &parts), "byte {at}");
    }
    // All but the bytes between matrices.
    assert!(refused + 64 > good.len(), "{refused} of {}", good.len());
    for len in (0..good.len()).rev().step_by(7) {
        replace(&path, &good[..len]);
        assert!(load(&keep).is_none(), "{len} bytes");
    }
    replace(&path, &[&good[..], b"x"].concat());
    assert!(load(&keep).is_none());
    replace(&path, &good);
    assert!(load(&keep).is_some());
    fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn headers_are_not_believed() {
    let (folder, parts) = (folder("hostile"), parts());
    let keep = keep(&folder, "here");
    keep.write(&parts).expect("saved");
    let good = fs::read(keep.path()).expect("read");
    let tail = good.len() - 24;
    let len = u64::from_le_bytes(good[tail..tail + 8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&good[tail - len..tail]).expect("JSON");
    // A file whose header has the right digest and says something else.
    let with = |change: &dyn Fn(&mut Value)| {
        let mut header = header.clone();
        change(&mut header);
        let json = serde_json::to_vec(&header).expect("JSON");
        let numbers = [json.len() as u64, digest(&json)].map(u64::to_le_bytes);
        replace(&keep.path(), &[&good[..tail - len], &json, numbers.as_flattened(), b"AlulaPk1"].concat());
        load(&keep).is_some()
    };
    assert!(with(&|_| ()));
    for (pointer, value) in [
        ("/layout", json!(Packed::LAYOUT + 1)),
        ("/layout", json!(-1)),
        ("/identity", json!(8)),
        ("/matrices", json!({})),
        ("/matrices/first/start", json!(u64::MAX)),
        ("/matrices/first/start", json!(u64::MAX - 63)),
        ("/matrices/first/start", json!(64)),
        ("/matrices/first/start", json!(1)),
        ("/matrices/first/start", json!(1e300)),
        ("/matrices/first/format", json!("F32")),
        ("/matrices/first/format", json!("Q4_K")),
        ("/matrices/first/format", json!("Q9")),
        ("/matrices/first/digests", json!([])),
        ("/matrices/first/digests", json!([1, 2])),
        ("/matrices/first/digests", json!(null)),
    ] {
        assert!(!with(&|h| *h.pointer_mut(pointer).expect("it is there") = value.clone()), "{pointer} {value}");
    }
    for (len, magic) in [(u64::MAX, b"AlulaPk1"), (tail as u64 + 1, b"AlulaPk1"), (len as u64, b"AlulaPk2")] {
        let check = &good[tail + 8..tail + 16];
        replace(&keep.path(), &[&good[..tail], &len.to_le_bytes(), check, magic].concat());
        assert!(load(&keep).is_none(), "{len}");
    }
    fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn what_dead_writers_left_is_removed_and_live_ones_are_left_alone() {
    let folder = folder("swept");
    let keep = keep(&folder, "here");
    keep.write(&parts()).expect("saved");
    fs::remove_file(keep.path()).expect("removed");
    let live = Temporary::new(&keep.path()).expect("a file");
    let dead = folder.join("b-0.1-1.part");
    fs::write(&dead, b"half of it").expect("written");
    assert_eq!(sweep(&folder).expect("swept"), std::slice::from_ref(&live.path));
    assert!(live.path.exists() && !dead.exists());
    // Who comes second lets the first one write.
    keep.write(&parts()).expect("nothing to do");
    assert!(!keep.path().exists());
    drop(live);
    keep.write(&parts()).expect("saved");
    assert!(load(&keep).is_some());
    assert_eq!(files(&folder, ENDS[1]).expect("read"), Vec::<PathBuf>::new());
    fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn writers_at_the_same_time_leave_one_whole_file() {
    let (folder, parts) = (folder("raced"), parts());
    let keep = keep(&folder, "here");
    keep.write(&parts).expect("saved");
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for _ in 0..8 {
                    _ = keep.write(&parts);
                    // There is a file at every time, and never half of one.
                    let file = Storage::map(&keep.path()).expect("a file");
                    let header = Header::read(&file).expect("a header");
                    assert!(with(|ctx| header.load(ctx, &keep, &file, &WANTED)).is_some());
                }
            });
        }
    });
    assert_eq!((list(&folder).expect("read").len(), sweep(&folder).expect("read").len()), (1, 0));
    fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn files_are_listed_and_older_ones_of_a_model_go() {
    let (folder, parts) = (folder("listed"), parts());
    assert!(list(&folder).expect("none yet").is_empty());
    let (first, other) = (keep(&folder, "here"), Keep { identity: 9, ..keep(&folder, "there") });
    first.write(&parts).expect("saved");
    other.write(&parts).expect("saved");
    let old = SystemTime::now() - Duration::from_secs(1000);
    File::options().write(true).open(first.path()).and_then(|f| f.set_modified(old)).expect("a time");
    fs::write(folder.join("broken.packed"), b"?").expect("written");
    let all = list(&folder).expect("read");
    let names: Vec<_> = all.iter().map(|k| (k.name.as_str(), k.source.as_deref())).collect();
    assert_eq!(names, [("a model / of mine", Some("here")), (&first.name, Some("there")), ("broken.packed", None)]);
    assert_eq!(all[0].bytes, first.path().metadata().expect("a file").len());
    assert!(all[0].used < all[1].used);
    let (_, file) = with(|ctx| first.load(ctx, &WANTED)).expect("kept");
    assert!(load(&first).is_some() && file.is_whole(), "to use is not to cut");
    assert!(list(&folder).expect("read")[0].used > old + Duration::from_secs(900), "it was used");
    // The model was replaced.
    Keep { identity: 8, ..first.clone() }.write(&parts).expect("saved");
    let left: Vec<_> = list(&folder).expect("read").into_iter().map(|k| k.file).collect();
    assert!(!left.contains(&first.path()) && left.contains(&other.path()) && left.len() == 3);
    fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_and_leaves_nothing() {
    let folder = folder("nowhere");
    fs::write(&folder, b"a file").expect("written");
    let keep = keep(&folder.join("below"), "here");
    assert!(keep.write(&parts()).is_err() && load(&keep).is_none());
    drop(keep.save(parts()));
    fs::remove_file(&folder).expect("removed");
    // A disk without room: the device that is always full.
    if let Ok(mut full) = File::options().write(true).open("/dev/full") {
        assert!(write(&mut full, &keep, &parts()).is_err());
    }
}

#[test]
fn little_is_not_kept_and_neither_is_a_model_that_changed() {
    let folder = folder("little");
    let least = parts().iter().map(|p| p.matrix.bytes()).sum::<usize>();
    let keep = Keep { least: least + 1, ..keep(&folder, "here") };
    assert!(keep.save(parts()).is_none() && keep.save(Vec::new()).is_none() && !folder.exists());
    drop(Keep { least, ..keep.clone() }.save(parts()));
    assert!(keep.path().exists());
    fs::remove_file(keep.path()).expect("removed");
    let model = folder.join("model");
    fs::write(&model, b"weights").expect("written");
    let files = vec![Storage::map(&model).expect("mapped")];
    std::thread::sleep(Duration::from_millis(20));
    fs::write(&model, b"others!").expect("written");
    assert!(Keep { files, ..keep.clone() }.write(&parts()).is_err());
    assert!(list(&folder).expect("read").is_empty() && sweep(&folder).expect("read").is_empty());
    fs::remove_dir_all(&folder).expect("removed");
}
