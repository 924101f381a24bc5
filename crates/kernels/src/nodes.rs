//! Where the system takes memory from, on machines whose processors have memory of their own (NUMA).
#![allow(unsafe_code)]

use std::io;

/// Takes the memory that this thread and those that it starts from now on touch first from some nodes in turns, page by page; also the
/// memory of files that they read. Says whether it is so: where somebody has told the system before where to take it from, as
/// `numactl` does, that stays.
///
/// # Errors
/// The system refuses, as containers do, or has no such thing. Nothing has changed then.
pub fn interleave(nodes: &[usize]) -> io::Result<bool> {
    if system::policy()?.0 != system::DEFAULT {
        return Ok(false);
    }
    system::interleave(nodes).map(|()| true)
}

/// The nodes that memory is taken from in turns by this thread; none if it is not.
///
/// # Errors
/// As in [`interleave`].
pub fn interleaved() -> io::Result<Vec<usize>> {
    let (mode, nodes) = system::policy()?;
    Ok(if mode == system::INTERLEAVE { nodes } else { Vec::new() })
}

#[cfg(target_os = "linux")]
mod system {
    use libc::{SYS_get_mempolicy, SYS_set_mempolicy, c_int, c_ulong, syscall};
    use std::io;
    use std::ptr::null;

    pub(super) const DEFAULT: c_int = libc::MPOL_DEFAULT;
    pub(super) const INTERLEAVE: c_int = libc::MPOL_INTERLEAVE;

    const BITS: usize = c_ulong::BITS as usize;
    /// More nodes than any system has.
    const MOST: usize = 1024;

    /// What this thread has: the mode, and the nodes that it names.
    pub(super) fn policy() -> io::Result<(c_int, Vec<usize>)> {
        let (mut mode, mut mask) = (0, [0 as c_ulong; MOST / BITS]);
        // SAFETY: the system writes one number to `mode` and at most `MOST` bits to `mask`; no address is asked about.
        let failed = unsafe {
            syscall(SYS_get_mempolicy, &raw mut mode, mask.as_mut_ptr(), MOST as c_ulong, null::<u8>(), 0 as c_ulong)
        };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        let nodes = (0..MOST).filter(|node| mask[node / BITS] >> (node % BITS) & 1 == 1);
        Ok((mode, nodes.collect()))
    }

    pub(super) fn interleave(nodes: &[usize]) -> io::Result<()> {
        let mut mask = [0 as c_ulong; MOST / BITS];
        for node in nodes.iter().filter(|node| **node < MOST) {
            mask[node / BITS] |= 1 << (node % BITS);
        }
        // SAFETY: the system reads at most `MOST` bits of `mask`; it takes one from the number that it is told.
        match unsafe { syscall(SYS_set_mempolicy, INTERLEAVE, mask.as_ptr(), MOST as c_ulong + 1) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;

    pub(super) const DEFAULT: i32 = 0;
    pub(super) const INTERLEAVE: i32 = 3;

    pub(super) fn policy() -> io::Result<(i32, Vec<usize>)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn interleave(_: &[usize]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs in a thread of its own, whose memory it is about.
    fn apart(f: impl FnOnce() + Send) {
        std::thread::scope(|s| s.spawn(f).join().expect("no panic"));
    }

    #[test]
    fn what_a_thread_says_holds_for_it_and_those_that_it_starts() {
        apart(|| {
            match interleaved() {
                Ok(nodes) => assert_eq!(nodes, []),
                Err(e) => return println!("skipped: the system refuses: {e}"),
            }
            assert!(interleave(&[]).is_err() && interleave(&[2000]).is_err(), "no node");
            assert!(interleave(&[0]).expect("there is a node 0"));
            assert_eq!(interleaved().expect("read back"), [0]);
            apart(|| assert_eq!(interleaved().expect("inherited"), [0]));
            assert!(!interleave(&[0]).expect("it was said before"));
            let pool = crate::Pool::new(2);
            let waiting = std::sync::Barrier::new(2);
            pool.run(2, true, |_, _| {
                waiting.wait();
                assert_eq!(interleaved().expect("of each thread of a pool"), [0]);
            });
        });
        apart(|| assert_eq!(interleaved().expect("read back"), [], "others go on as before"));
    }
}
