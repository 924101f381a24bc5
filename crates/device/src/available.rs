//! How much memory this process may take.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// Bytes that can be had without pushing others out, by what the system says and by the limits of the process's control
/// groups; `None` where it does not say.
pub fn available() -> Option<usize> {
    let free = number(&read_to_string("/proc/meminfo").ok()?, "MemAvailable:").map(|kib| kib.saturating_mul(1024));
    let own = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = limit(&own, Path::new("/sys/fs/cgroup"));
    free.into_iter().chain(groups).min()
}

/// Bytes of this process that no file stands behind: what it has taken already.
pub fn taken() -> usize {
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    number(&status, "RssAnon:").map_or(32 << 20, |kib| kib.saturating_mul(1024))
}

/// The number after a key at the beginning of a line.
fn number(text: &str, key: &str) -> Option<usize> {
    text.lines().find_map(|l| l.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

/// What the tightest of the groups leaves, of either version of control groups.
fn limit(own: &str, root: &Path) -> Option<usize> {
    let mut least: Option<usize> = None;
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mut folder, max, used) = match controllers {
            "" => (root.to_owned(), "memory.max", "memory.current"),
            c if c.split(',').any(|c| c == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        // A container sees its own group as the root, whatever the path says.
        let mut folders: Vec<PathBuf> = vec![folder.clone()];
        for part in path.split('/').filter(|p| !p.is_empty() && *p != "..") {
            folder.push(part);
            folders.push(folder.clone());
        }
        for folder in folders {
            let read = |file: &str| read_to_string(folder.join(file)).ok();
            let Some(most) = read(max).and_then(|t| t.trim().parse::<usize>().ok()) else { continue };
            // What files take of it can be had.
            let stat = read("memory.stat").unwrap_or_default();
            let files = ["inactive_file ", "active_file "].iter().filter_map(|key| number(&stat, key)).sum();
            let used = read(used).and_then(|t| t.trim().parse::<usize>().ok()).unwrap_or(0).saturating_sub(files);
            let left = most.saturating_sub(used);
            least = Some(least.map_or(left, |l| l.min(left)));
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_counts() {
        let root = std::env::temp_dir().join(format!("alula-groups-{}", std::process::id()));
        let write = |file: &str, text: &str| {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        assert_eq!(limit("0::/a/b\n", &root), None);
        write("a/memory.max", "5000\n");
        write("a/memory.current", "3000\n");
        write("a/memory.stat", "anon 500\nfile 2500\ninactive_file 1500\nactive_file 1000\n");
        write("a/b/memory.max", "max\n");
        assert_eq!(limit("0::/a/b\n", &root), Some(4500));
        write("memory/c/memory.limit_in_bytes", "4000\n");
        write("memory/c/memory.usage_in_bytes", "100\n");
        assert_eq!(limit("5:cpu,memory:/c\n0::/a/b\n3:pids:/a\nnonsense\n", &root), Some(3900));
        assert_eq!(limit("5:cpu:/c\n", &root), None);
        std::fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn this_process_has_memory() {
        if cfg!(target_os = "linux") {
            assert!(available().is_some_and(|n| n > 1 << 20) && (1 << 16..1 << 40).contains(&taken()));
        }
    }
}
