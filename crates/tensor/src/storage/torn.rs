//! Mapped files that become shorter, or whose disk fails, while they are read: the system then sends SIGBUS, which would end the
//! process and everybody's work with it. Here what is missing of a guarded mapping becomes zeros, and the guard remembers it;
//! who has read asks, and gives an error instead of the result.
use std::ops::Range;

#[cfg(unix)]
pub(in crate::storage) use unix::Guard;

/// Nothing to guard against.
#[cfg(not(unix))]
pub(in crate::storage) struct Guard;

#[cfg(not(unix))]
impl Guard {
    pub(in crate::storage) fn new(_: Range<*const u8>) -> Guard {
        Guard
    }
    pub(in crate::storage) fn torn(&self) -> bool {
        false
    }
}

#[cfg(unix)]
mod unix {
    use super::Range;
    use std::cell::UnsafeCell;
    use std::mem::MaybeUninit;
    use std::sync::Once;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

    /// Mappings that are guarded at a time; more go without.
    const PLACES: usize = 1024;
    static PLACE: [Place; PLACES] = [const { Place::new() }; PLACES];
    static BEFORE: Before = Before(UnsafeCell::new(MaybeUninit::zeroed()));
    static PAGE: AtomicUsize = AtomicUsize::new(0);

    /// A guarded mapping. `start` is 0 while the place is free or is being taken, `end` while it is free.
    struct Place {
        start: AtomicUsize,
        end: AtomicUsize,
        torn: AtomicBool,
    }

    impl Place {
        const fn new() -> Place {
            Place { start: AtomicUsize::new(0), end: AtomicUsize::new(0), torn: AtomicBool::new(false) }
        }
    }

    /// What was done about SIGBUS before.
    struct Before(UnsafeCell<MaybeUninit<libc::sigaction>>);
    // SAFETY: written once, before there is a handler that reads it.
    unsafe impl Sync for Before {}

    /// As long as it lives, what is missing of its mapping, if it has one, reads as zeros.
    pub(in crate::storage) struct Guard(Option<&'static Place>);

    impl Guard {
        /// Guards a mapping of whole pages, which must be there as long as the guard.
        pub(in crate::storage) fn new(range: Range<*const u8>) -> Guard {
            static ONCE: Once = Once::new();
            ONCE.call_once(install);
            let (start, end) = (range.start.addr(), range.end.addr());
            let place = PLACE.iter().find(|p| p.end.compare_exchange(0, end, SeqCst, SeqCst).is_ok());
            if let Some(place) = place {
                place.torn.store(false, SeqCst);
                place.start.store(start, SeqCst);
            }
            Guard(place)
        }

        /// Whether something was missing.
        pub(in crate::storage) fn torn(&self) -> bool {
            self.0.is_some_and(|place| place.torn.load(SeqCst))
        }
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            if let Some(place) = self.0 {
                place.start.store(0, SeqCst);
                place.end.store(0, SeqCst);
            }
        }
    }

    fn install() {
        // SAFETY: a zeroed `sigaction` is valid; `missing` has the form that SA_SIGINFO asks for, and calls nothing that a
        // handler may not; a thread's own stack for signals is used, as the standard library's handler does. `BEFORE` is
        // written here alone, once.
        unsafe {
            PAGE.store(usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096), SeqCst);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = missing as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, std::ptr::null(), BEFORE.0.get().cast());
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    }

    /// Puts zeros where bytes of a guarded mapping are missing; to their end, as a file that was cut has nothing behind.
    extern "C" fn missing(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system gives what SA_SIGINFO says.
        let at = unsafe { (*info).si_addr() }.addr();
        for place in &PLACE {
            let (start, end) = (place.start.load(SeqCst), place.end.load(SeqCst));
            if start == 0 || !(start..end).contains(&at) {
                continue;
            }
            place.torn.store(true, SeqCst);
            let page = at & !(PAGE.load(SeqCst) - 1);
            // SAFETY: inside a mapping that nobody writes to, which its owner unmaps as a whole.
            let zeros = unsafe {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                libc::mmap(page as *mut _, end - page, libc::PROT_READ, flags, -1, 0)
            };
            if zeros != libc::MAP_FAILED {
                return;
            }
        }
        // Not ours: the instruction is met again, by who was there before.
        // SAFETY: `BEFORE` was written before this handler was there.
        unsafe { libc::sigaction(libc::SIGBUS, BEFORE.0.get().cast(), std::ptr::null_mut()) };
    }
}

#[cfg(all(test, unix))]
mod tests {
    use crate::Storage;
    use std::fs::File;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    fn file(name: &str) -> (std::path::PathBuf, File) {
        let path = std::env::temp_dir().join(format!("alula-{name}-{}", std::process::id()));
        std::fs::write(&path, [7; 300_000]).expect("write");
        let file = File::options().write(true).open(&path).expect("open");
        (path, file)
    }

    #[test]
    fn what_was_cut_off_reads_as_zeros() {
        let (path, cut) = file("torn");
        for (len, first) in [(100_000, 7), (0, 0)] {
            cut.set_len(300_000).expect("a length");
            std::fs::write(&path, [7; 300_000]).expect("write");
            let storage = Storage::map(&path).expect("map");
            let other = Storage::map(&path).expect("map");
            assert!(storage.is_unwritten() && storage.is_whole());
            cut.set_len(len).expect("a length");
            let sums: Vec<u64> = std::thread::scope(|s| {
                let all: Vec<_> = (0..4).map(|_| s.spawn(|| storage.iter().map(|&b| u64::from(b)).sum())).collect();
                all.into_iter().map(|t| t.join().expect("no panic")).collect()
            });
            assert_eq!(sums, [len * 7; 4]);
            assert_eq!((storage[0], storage[299_999]), (first, 0));
            // It stays so when the file is whole again.
            cut.set_len(300_000).expect("a length");
            assert!(!storage.is_unwritten() && !storage.is_unchanged() && !storage.is_whole());
            drop(storage);
            assert_eq!(other[299_999], 0);
        }
        std::fs::remove_file(&path).expect("remove");
    }

    #[test]
    fn what_is_not_guarded_ends_the_process() {
        let me = "storage::torn::tests::what_is_not_guarded_ends_the_process";
        if std::env::var_os("ALULA_TEST_TORN").is_some() {
            let (path, cut) = file("unguarded");
            let _guarded = Storage::map(&path).expect("map");
            // SAFETY: the file is cut, which is what this is about.
            let map = unsafe { memmap2::Mmap::map(&File::open(&path).expect("open")).expect("map") };
            std::fs::remove_file(&path).expect("remove");
            cut.set_len(0).expect("a length");
            std::process::exit(i32::from(map[5000]));
        }
        let exe = std::env::current_exe().expect("a path");
        let ended = Command::new(exe).args(["--exact", me]).env("ALULA_TEST_TORN", "1").output().expect("a process");
        assert_eq!(ended.status.signal(), Some(libc::SIGBUS), "{ended:?}");
    }
}
