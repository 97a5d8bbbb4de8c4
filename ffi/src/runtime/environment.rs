// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The child's environment and the program it names: pure functions over bytes.

use crate::kernel::wire::{Spec, Stage};
use crate::runtime::rights::User;
use rustix::fd::OwnedFd;
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// What execvpe(3) searches where PATH is not set.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// `NAME=value`.
type Entry = Vec<u8>;

/// The value, where `entry` is of the variable `key`.
fn value_of<'a>(entry: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    entry.strip_prefix(key)?.strip_prefix(b"=")
}

/// The name; what has none is no variable.
fn key_of(entry: &[u8]) -> Option<&[u8]> {
    let at = entry.iter().position(|&b| b == b'=')?;
    (at > 0).then_some(&entry[..at])
}

fn set(list: &mut Vec<Entry>, key: &[u8], value: &[u8]) {
    let new = [key, b"=", value].concat();
    match list.iter_mut().find(|entry| value_of(entry, key).is_some()) {
        Some(old) => *old = new,
        None => list.push(new),
    }
}

/// Lays a runtime's own view over the native environment. A native value that
/// is not UTF-8 cannot be seen whole from JavaScript: it stays where the view
/// holds a replacement character, and so does a name that is not UTF-8.
fn overlay(mut list: Vec<Entry>, view: &[(Vec<u8>, Vec<u8>)]) -> Vec<Entry> {
    let seen: HashSet<&[u8]> = view.iter().map(|(key, _)| &key[..]).collect();
    list.retain(|entry| {
        key_of(entry).is_some_and(|key| std::str::from_utf8(key).is_err() || seen.contains(key))
    });
    for (key, value) in view {
        let shown = String::from_utf8_lossy(value).contains('\u{fffd}');
        let hidden = |entry: &Entry| value_of(entry, key).is_some_and(|v| std::str::from_utf8(v).is_err());
        let kept = shown && list.iter().any(hidden);
        let unseen = String::from_utf8_lossy(key).contains('\u{fffd}');
        if !kept && !unseen {
            set(&mut list, key, value);
        }
    }
    list
}

/// The child's variables: the native ones, the runtime's view over them, and
/// what the caller sets and unsets.
fn compose(native: Vec<Entry>, spec: &Spec) -> Vec<Entry> {
    let mut list = if spec.clear_env { Vec::new() } else { native };
    list.retain(|entry| key_of(entry).is_some());
    if let (false, Some(view)) = (spec.clear_env, &spec.view) {
        list = overlay(list, view);
    }
    for (key, value) in &spec.env {
        match value {
            Some(value) => set(&mut list, key, value),
            None => list.retain(|entry| value_of(entry, key).is_none()),
        }
    }
    list
}

/// A program that was found, and how it is to be run.
pub struct Program {
    pub spec: Spec,
    /// Absolute; executed as it is.
    pub path: Vec<u8>,
    /// The directory in which it starts.
    pub directory: OwnedFd,
    /// `NAME=value`, as execve(2) takes it.
    pub env: Vec<Vec<u8>>,
}

/// Why there is no program to run.
#[derive(Debug, PartialEq, Eq)]
pub struct NotFound {
    pub failed: (Stage, Errno),
    /// What it is that may not be searched or executed.
    pub refused: Option<PathBuf>,
}

impl NotFound {
    fn program(errno: Errno) -> Self {
        NotFound { failed: (Stage::Program, errno), refused: None }
    }
}

impl Program {
    /// Looks it up as execvpe(3) does, in the child's own PATH and from its own directory, and where it is to run as
    /// another `user`, with that one's rights.
    pub fn find(spec: Spec, native: Vec<Vec<u8>>, user: Option<&User>) -> Result<Program, NotFound> {
        let cwd = |errno| NotFound { failed: (Stage::Cwd, errno), refused: None };
        let directory = open_directory(&spec).map_err(cwd)?;
        let env = compose(native, &spec);
        let path = find(&spec, &env, user)?;
        Ok(Program { spec, path: path.into_os_string().into_vec(), directory, env })
    }
}

/// The runtime's directory, or the one asked for, as it is now.
fn open_directory(spec: &Spec) -> Result<OwnedFd, Errno> {
    let path = if spec.cwd.is_empty() { b"." } else { &spec.cwd[..] };
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

pub fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

fn find(spec: &Spec, variables: &[Entry], user: Option<&User>) -> Result<PathBuf, NotFound> {
    let command = Path::new(OsStr::from_bytes(&spec.command));
    if spec.command.is_empty() {
        return Err(NotFound::program(Errno::NOENT));
    }
    if spec.command.contains(&b'/') {
        let path = absolute(spec, command).map_err(NotFound::program)?;
        return executable(&path, user).map(|()| path);
    }
    let path = variables.iter().find_map(|entry| value_of(entry, b"PATH")).unwrap_or(DEFAULT_PATH);
    let mut first = None;
    for entry in path.split(|&b| b == b':') {
        let entry = Path::new(OsStr::from_bytes(entry)).join(command);
        let Ok(candidate) = absolute(spec, &entry) else { continue }; // there is no such directory
        match executable(&candidate, user) {
            Ok(()) => return Ok(candidate),
            Err(NotFound { failed: (_, Errno::ACCESS), refused }) => {
                first.get_or_insert(NotFound { refused, ..NotFound::program(Errno::ACCESS) });
            }
            Err(_) => {}
        }
    }
    Err(first.unwrap_or_else(|| NotFound::program(Errno::NOENT)))
}

/// `path` as seen from the child's directory.
fn absolute(spec: &Spec, path: &Path) -> Result<PathBuf, Errno> {
    let path = Path::new(OsStr::from_bytes(&spec.cwd)).join(path);
    if path.is_absolute() {
        return without_parents(path);
    }
    let here = std::env::current_dir().map_err(|error| errno_of(&error))?;
    without_parents(here.join(path))
}

/// The same file by a name without `..`, which the kernel takes behind symbolic links, and whoever is asked for
/// permission to run it may take before them. It is told now whereto it leads, and not to the child.
fn without_parents(path: PathBuf) -> Result<PathBuf, Errno> {
    let parts: Vec<Component> = path.components().collect();
    let Some(last) = parts.iter().rposition(|part| *part == Component::ParentDir) else { return Ok(path) };
    let above: PathBuf = parts[..=last].iter().collect();
    let mut settled = std::fs::canonicalize(above).map_err(|error| errno_of(&error))?;
    settled.extend(&parts[last + 1..]);
    if path.as_os_str().as_bytes().ends_with(b"/") {
        settled.push(""); // it is to be a directory
    }
    Ok(settled)
}

/// The first directory on the way to `path` that this runtime may not search, where that is why it was not found.
fn closed(path: &Path, errno: Errno) -> Option<PathBuf> {
    let refused = |folder: &Path| {
        let may = rustix::fs::accessat(rustix::fs::CWD, folder, Access::EXEC_OK, AtFlags::EACCESS);
        may == Err(Errno::ACCESS)
    };
    let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
    folders.reverse();
    let first = folders.into_iter().find(|folder| refused(folder));
    first.filter(|_| errno == Errno::ACCESS).map(Path::to_owned)
}

fn executable(path: &Path, user: Option<&User>) -> Result<(), NotFound> {
    let unseen = |errno| NotFound { refused: closed(path, errno), ..NotFound::program(errno) };
    let stat = rustix::fs::stat(path).map_err(unseen)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(NotFound::program(Errno::ISDIR)),
        _ => return Err(NotFound::program(Errno::ACCESS)),
    }
    // As the runtime itself in any case: that knows of a file system that is mounted noexec.
    rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(NotFound::program)?;
    match user.and_then(|user| user.refused(path)) {
        Some(at) => Err(NotFound { refused: Some(at), ..NotFound::program(Errno::ACCESS) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::wire::{Scope, Stdio};

    fn spec(command: &[u8]) -> Spec {
        Spec {
            clear_env: false,
            kill_on_owner_death: false,
            no_cgroup: false,
            close_scope: Scope::Tree,
            grace_ms: 0,
            flush_ms: 0,
            timeout_ms: None,
            stdio: [Stdio::Piped; 3],
            command: command.to_vec(),
            arg0: Vec::new(),
            cwd: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            view: None,
            asked: None,
            plan: None,
        }
    }

    fn path(spec: &Spec, native: Vec<Vec<u8>>) -> Result<Vec<u8>, (Stage, Errno)> {
        Program::find(spec.clone(), native, None).map(|program| program.path).map_err(|none| none.failed)
    }

    fn pair(key: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
        (key.to_vec(), value.to_vec())
    }

    #[test]
    fn parents_are_those_behind_links_and_nothing_is_left_of_them() {
        let folder = std::env::temp_dir().join(format!("proton_test_parents_{}", std::process::id()));
        let folder = {
            std::fs::create_dir_all(folder.join("evil/sub")).expect("it is made");
            std::fs::create_dir_all(folder.join("a")).expect("it is made");
            std::os::unix::fs::symlink(folder.join("evil/sub"), folder.join("a/link")).expect("it is made");
            std::fs::canonicalize(folder).expect("it is there")
        };
        let of = |path: &str| without_parents(folder.join(path)).map(|path| path.into_os_string());
        assert_eq!(of("a/link/../tool"), Ok(folder.join("evil/tool").into_os_string()));
        assert_eq!(of("a/link/../../a/tool/"), Ok(folder.join("a/tool/").into_os_string()));
        assert_eq!(of("a/link/tool"), Ok(folder.join("a/link/tool").into_os_string()), "as it was said");
        assert_eq!(of("none/../tool"), Err(Errno::NOENT));
        std::fs::remove_dir_all(folder).expect("it is removed");
    }

    #[test]
    fn the_callers_word_is_last_and_null_unsets() {
        let mut wanted = spec(b"x");
        wanted.env =
            vec![(b"A".to_vec(), Some(b"2".to_vec())), (b"B".to_vec(), None), (b"C".to_vec(), Some(vec![]))];
        let native = vec![b"A=1".to_vec(), b"B=1".to_vec(), b"D=a=b".to_vec()];
        let got = compose(native.clone(), &wanted);
        assert_eq!(got, [&b"A=2"[..], b"D=a=b", b"C="]);
        wanted.clear_env = true;
        assert_eq!(compose(native, &wanted), [&b"A=2"[..], b"C="]);
    }

    #[test]
    fn bytes_that_javascript_cannot_see_survive_its_view() {
        let mut wanted = spec(b"x");
        wanted.view =
            Some(vec![pair(b"RAW", "a\u{fffd}".as_bytes()), pair(b"NEW", b"1"), pair(b"OLD", b"changed")]);
        let native = vec![b"RAW=a\xff".to_vec(), b"OLD=1".to_vec(), b"GONE=1".to_vec(), b"N\xff=1".to_vec()];
        let got = compose(native, &wanted);
        assert_eq!(got, [&b"RAW=a\xff"[..], b"OLD=changed", b"N\xff=1", b"NEW=1"]);
    }

    #[test]
    fn a_program_is_looked_up_in_the_childs_own_path() {
        let mut wanted = spec(b"true");
        let found = path(&wanted, vec![b"PATH=/nowhere:/usr/bin".to_vec()]);
        assert_eq!(found, Ok(b"/usr/bin/true".to_vec()));
        wanted.env = vec![(b"PATH".to_vec(), Some(b"/nowhere".to_vec()))];
        assert_eq!(path(&wanted, vec![b"PATH=/usr/bin".to_vec()]), Err((Stage::Program, Errno::NOENT)));
        wanted.env = vec![(b"PATH".to_vec(), None)];
        assert!(path(&wanted, vec![]).is_ok_and(|path| path.ends_with(b"/true")));
    }

    #[test]
    fn what_is_found_but_cannot_be_run_is_told_apart_from_what_is_not_found() {
        let mut wanted = spec(b"passwd");
        wanted.env = vec![(b"PATH".to_vec(), Some(b"/etc:/nowhere".to_vec()))];
        assert_eq!(path(&wanted, vec![]), Err((Stage::Program, Errno::ACCESS)));
        wanted.cwd = b"/nowhere".to_vec();
        assert_eq!(path(&wanted, vec![]), Err((Stage::Cwd, Errno::NOENT)));
        wanted.cwd = b"/etc/passwd".to_vec();
        assert_eq!(path(&wanted, vec![]), Err((Stage::Cwd, Errno::NOTDIR)));
    }

    #[test]
    fn a_directory_is_no_program() {
        let mut wanted = spec(b"/usr/bin");
        assert_eq!(path(&wanted, vec![]), Err((Stage::Program, Errno::ISDIR)));
        wanted.command = b"bin".to_vec();
        assert_eq!(path(&wanted, vec![b"PATH=/usr".to_vec()]), Err((Stage::Program, Errno::NOENT)));
    }

    #[test]
    fn a_relative_path_starts_in_the_childs_directory() {
        let mut wanted = spec(b"bin/true");
        wanted.cwd = b"/usr".to_vec();
        assert_eq!(path(&wanted, vec![]), Ok(b"/usr/bin/true".to_vec()));
    }
}
