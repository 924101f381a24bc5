//! The cores of the machine, and threads that are bound to them.

use std::path::Path;

/// The logical processors of each physical core that this process may use. Where the system does not say, every one is a
/// core of its own.
pub(crate) fn cores() -> Vec<Vec<usize>> {
    linux(Path::new("/proc/self/status"), Path::new("/sys/devices/system/cpu"))
        .unwrap_or_else(|| (0..std::thread::available_parallelism().map_or(1, usize::from)).map(|i| vec![i]).collect())
}

/// Threads that a device has where nobody says how many: one per physical core, fewer where the process may use less time
/// than those have.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(cores().len())
}

/// What Linux says in a process's status and in the folder of its processors.
fn linux(status: &Path, processors: &Path) -> Option<Vec<Vec<usize>>> {
    let status = std::fs::read_to_string(status).ok()?;
    let allowed = list(status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?)?;
    let mut cores: Vec<Vec<usize>> = Vec::new();
    for &cpu in &allowed {
        if cores.iter().any(|core| core.contains(&cpu)) {
            continue;
        }
        let siblings = processors.join(format!("cpu{cpu}/topology/thread_siblings_list"));
        let siblings = std::fs::read_to_string(siblings).ok().and_then(|s| list(&s)).unwrap_or_default();
        let core: Vec<usize> = allowed.iter().copied().filter(|c| *c == cpu || siblings.contains(c)).collect();
        cores.push(core);
    }
    (!cores.is_empty()).then_some(cores)
}

/// The memory nodes that some logical processors belong to, each with those of them that are its own. None where the system does not say.
fn nodes(folder: &Path, processors: &[usize]) -> Vec<(usize, Vec<usize>)> {
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok().and_then(|s| list(&s)).unwrap_or_default();
    let own = |node: usize| {
        let all = read(&format!("node{node}/cpulist"));
        (node, processors.iter().copied().filter(|cpu| all.contains(cpu)).collect())
    };
    read("has_memory").into_iter().map(own).filter(|(_, own): &(_, Vec<usize>)| !own.is_empty()).collect()
}

const NODES: &str = "/sys/devices/system/node";

/// Where some processors belong to several memory nodes, takes memory from all of these in turns, for this thread and those that it
/// starts. Any thread may read any weight, so no place is better for it than another, and so all nodes are read equally fast.
/// Where the system refuses, memory is taken as ever: near the thread that first touches it.
pub(crate) fn interleave(processors: &[usize]) {
    let nodes: Vec<usize> = nodes(Path::new(NODES), processors).into_iter().map(|(node, _)| node).collect();
    if nodes.len() > 1 {
        _ = alula_kernels::interleave(&nodes);
    }
}

/// The cores in an order in which the first ones, however many, are as many of each memory node.
pub(crate) fn spread(cores: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    let nodes = nodes(Path::new(NODES), &cores.concat());
    dealt(cores, &nodes)
}

fn dealt(cores: Vec<Vec<usize>>, nodes: &[(usize, Vec<usize>)]) -> Vec<Vec<usize>> {
    let mut seen = vec![0; nodes.len() + 1];
    let turn = |core: Vec<usize>| {
        let node = nodes.iter().position(|(_, own)| own.contains(&core[0])).unwrap_or(nodes.len());
        seen[node] += 1;
        (seen[node], core)
    };
    let mut turns: Vec<(usize, Vec<usize>)> = cores.into_iter().map(turn).collect();
    turns.sort_by_key(|(turn, _)| *turn);
    turns.into_iter().map(|(_, core)| core).collect()
}

/// Numbers like `0-3,8`, none of them above 65,535.
fn list(text: &str) -> Option<Vec<usize>> {
    let mut out = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        out.extend((first..=last).map(usize::from));
    }
    Some(out)
}

/// Binds this thread, and the threads that it starts from now on, to some logical processors.
///
/// # Errors
/// The system refuses, or has no such thing.
#[cfg(target_os = "linux")]
pub(crate) fn bind(core: &[usize]) -> std::io::Result<()> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    for &cpu in core.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU) {
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// There is no such thing here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn bind(_: &[usize]) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(list("0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(list(" 7 "), Some(vec![7]));
        assert_eq!(list("3-1"), Some(vec![]));
        for bad in ["", "a", "1-", "-1", "1,,2", "99999999999", "0-70000"] {
            assert_eq!(list(bad), None, "{bad}");
        }
    }

    #[test]
    fn hyperthreads_share_a_core() {
        let dir = std::env::temp_dir().join(format!("alula-cores-{}", std::process::id()));
        let status = dir.join("status");
        std::fs::create_dir_all(&dir).expect("made");
        std::fs::write(&status, "Name:\tx\nCpus_allowed_list:\t0-2,4\n").expect("written");
        for (cpu, siblings) in [(0, "0,4"), (1, "1,5"), (4, "0,4")] {
            let topology = dir.join(format!("cpu{cpu}/topology"));
            std::fs::create_dir_all(&topology).expect("made");
            std::fs::write(topology.join("thread_siblings_list"), siblings).expect("written");
        }
        // 5 may not be used; of 2 nothing is known.
        assert_eq!(linux(&status, &dir), Some(vec![vec![0, 4], vec![1], vec![2]]));
        assert_eq!(linux(&dir.join("none"), &dir), None);
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn nodes_have_processors_and_memory() {
        let dir = std::env::temp_dir().join(format!("alula-nodes-{}", std::process::id()));
        // Node 2 has no memory, node 3 no processors.
        for (node, cpus) in [(0, "0-3,8-11"), (1, "4-7,12-15"), (2, "16"), (3, "")] {
            std::fs::create_dir_all(dir.join(format!("node{node}"))).expect("made");
            std::fs::write(dir.join(format!("node{node}/cpulist")), format!("{cpus}\n")).expect("written");
        }
        std::fs::write(dir.join("has_memory"), "0-1,3\n").expect("written");
        assert_eq!(nodes(&dir, &[1, 5, 9, 16]), [(0, vec![1, 9]), (1, vec![5])]);
        assert_eq!(nodes(&dir, &[4, 12]), [(1, vec![4, 12])]);
        assert_eq!(nodes(&dir.join("none"), &[0, 4]), []);
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn the_first_cores_are_of_all_nodes() {
        let cores = |all: &[usize]| all.iter().map(|&cpu| vec![cpu, cpu + 8]).collect::<Vec<_>>();
        let nodes = [(0, vec![0, 1, 2, 8, 9, 10]), (4, vec![3, 4, 11, 12])];
        assert_eq!(dealt(cores(&[0, 1, 2, 3, 4]), &nodes), cores(&[0, 3, 1, 4, 2]));
        assert_eq!(dealt(cores(&[0, 1, 3]), &nodes[..1]), cores(&[0, 3, 1]), "nothing is known of 3");
        assert_eq!(dealt(cores(&[0, 1, 2, 3]), &[]), cores(&[0, 1, 2, 3]));
    }

    #[test]
    fn there_is_a_core() {
        assert!((1..=cores().len()).contains(&threads()));
        assert!(cores().iter().all(|core| !core.is_empty()));
    }

    /// Each of a pool's threads runs on its own core alone.
    #[cfg(target_os = "linux")]
    #[test]
    fn bound_threads_stay_where_they_are() {
        // In a thread of its own, as it binds its caller.
        let test = || {
            let cores = cores();
            let pool = crate::cpu::bound(&cores).expect("bound");
            assert_eq!(pool.threads(), cores.len());
            let seen = std::sync::Mutex::new(vec![None; cores.len()]);
            let waiting = std::sync::Barrier::new(cores.len());
            pool.run(cores.len(), true, |_, thread| {
                let own = linux(Path::new("/proc/thread-self/status"), Path::new("/sys/devices/system/cpu"));
                seen.lock().expect("no panic")[thread] = own;
                waiting.wait();
            });
            let want: Vec<_> = cores.into_iter().map(|core| Some(vec![core])).collect();
            assert_eq!(seen.into_inner().expect("no panic"), want);
        };
        std::thread::spawn(test).join().expect("no panic");
    }
}
