// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The files of a cgroup: read, written, and read back. The kernel rounds some
//! values and normalizes others; a value that it silently did not take is an
//! error all the same.

use crate::kernel::procfs;
use crate::kernel::wire::plan::Check;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;

/// What a file reads that did not keep what was written: no error number of these file systems says it.
pub const NOT_KEPT: Errno = Errno::REMOTEIO;

/// Linux's magic numbers of both file systems (statfs(2)).
const MAGIC: [i64; 2] = [0x0027_e0eb, 0x6367_7270];

fn open(path: &str, how: OFlags) -> Result<rustix::fd::OwnedFd, Errno> {
    let file = rustix::fs::open(path, how | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    // A file of cgroups and nothing else, whatever somebody has mounted or linked there.
    let magic = rustix::fs::fstatfs(&file)?.f_type as i64;
    if MAGIC.contains(&magic) {
        Ok(file)
    } else {
        Err(Errno::NOTTY)
    }
}

/// What `path` says; ENOTTY where it is no file of a cgroup.
pub fn read(path: &str) -> Result<Vec<u8>, Errno> {
    drop(open(path, OFlags::RDONLY)?);
    let mut text = Vec::new();
    procfs::read(path, &mut text)?;
    Ok(text)
}

/// One write, as these files take it.
pub fn write(path: &str, value: &str) -> Result<(), Errno> {
    let file = open(path, OFlags::WRONLY)?;
    let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, value.as_bytes()))?;
    if written == value.len() {
        Ok(())
    } else {
        Err(Errno::IO)
    }
}

/// Writes and reads back: [`NOT_KEPT`] where the file says something else then.
pub fn set(path: &str, value: &str, check: Check) -> Result<(), Errno> {
    write(path, value)?;
    if check == Check::None {
        return Ok(());
    }
    let found = read(path)?;
    if keeps(check, value, &String::from_utf8_lossy(&found)) {
        Ok(())
    } else {
        Err(NOT_KEPT)
    }
}

/// The largest page of the processors that this runs on.
const PAGE: u64 = 64 * 1024;

fn keeps(check: Check, wanted: &str, found: &str) -> bool {
    let (wanted, found) = (wanted.trim(), found.trim());
    match check {
        Check::None => true,
        Check::Exact => same_words(wanted, found),
        Check::Bytes => wanted == found || same_bytes(wanted, found),
        Check::Set => numbers(wanted).is_some_and(|set| numbers(found) == Some(set)),
        Check::Line => found.lines().any(|line| holds(line, wanted)) || takes_all_away(wanted),
    }
}

/// Some files show more than was written, behind it.
fn same_words(wanted: &str, found: &str) -> bool {
    let mut found = found.split_whitespace();
    wanted.split_whitespace().all(|word| found.next() == Some(word))
}

fn same_bytes(wanted: &str, found: &str) -> bool {
    match (wanted.parse::<u64>(), found.parse::<u64>()) {
        (Ok(wanted), Ok(found)) => wanted.abs_diff(found) < PAGE,
        // v1 has no word for it, but takes -1.
        (Err(_), Ok(found)) => wanted == "-1" && found >= 1 << 62,
        _ => false,
    }
}

/// `0-2,7` as a set.
fn numbers(list: &str) -> Option<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for part in list.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        all.extend(first..=last.min(first.saturating_add(1 << 16)));
    }
    Some(all)
}

/// Begins with the same word and holds the others.
fn holds(line: &str, wanted: &str) -> bool {
    let mut words = wanted.split_whitespace();
    let first = words.next();
    line.split_whitespace().next() == first && words.all(|word| line.split_whitespace().any(|w| w == word))
}

/// A device without limits has no line.
fn takes_all_away(wanted: &str) -> bool {
    let mut words = wanted.split_whitespace().skip(1).peekable();
    words.peek().is_some() && words.all(|word| word.ends_with("=max"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_makes_of_a_value_is_known_as_the_same() {
        let same = [
            (Check::Exact, "25000 100000", "25000 100000\n"),
            (Check::Exact, "max 100000", "max 100000\n"),
            (Check::Exact, "64", "64\n"),
            (Check::Bytes, "1000001", "999424\n"),
            (Check::Bytes, "max", "max\n"),
            (Check::Bytes, "-1", "9223372036854771712\n"),
            (Check::Set, "0,1,2,7", "0-2,7\n"),
            (Check::Line, "default 50", "default 50\n8:0 100\n"),
            (Check::Line, "8:0 rbps=1048576 wiops=7", "8:0 rbps=1048576 wbps=max riops=max wiops=7\n"),
            (Check::Line, "8:0 rbps=max", ""),
            (Check::Line, "8:0 1048576", "254:0 5\n8:0 1048576\n"),
        ];
        for (check, wanted, found) in same {
            assert!(keeps(check, wanted, found), "{wanted} is kept as {found:?}");
        }
    }

    #[test]
    fn another_value_is_another() {
        let other = [
            (Check::Exact, "64", "max\n"),
            (Check::Exact, "25000 100000", "25000\n"),
            (Check::Bytes, "67108864", "134217728\n"),
            (Check::Bytes, "67108864", "max\n"),
            (Check::Bytes, "-1", "67108864\n"),
            (Check::Set, "0-1", "0\n"),
            (Check::Set, "0-1", "\n"),
            (Check::Line, "8:0 rbps=1048576", "8:16 rbps=1048576 wbps=max\n"),
            (Check::Line, "8:0 rbps=1048576", "8:0 rbps=2097152 wbps=max\n"),
            (Check::Line, "8:0 rbps=1048576", ""),
        ];
        for (check, wanted, found) in other {
            assert!(!keeps(check, wanted, found), "{wanted} is not kept as {found:?}");
        }
    }

    #[test]
    fn nothing_but_a_file_of_cgroups_is_read_or_written() {
        assert_eq!(read("/proc/self/comm"), Err(Errno::NOTTY));
        assert_eq!(write("/proc/self/comm", "x"), Err(Errno::NOTTY));
        assert_eq!(read("/proc/self/no-such-file"), Err(Errno::NOENT));
    }
}
