// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! Whether another user may execute a file: what execvpe(3) finds depends on
//! who calls it, and it is the runtime that looks up, but not the runtime that
//! executes.
//!
//! Judged by owner, group and mode of the file and of each directory on the way
//! to it (path_resolution(7)). What else decides is not seen here: an ACL that
//! takes away what the mode gives, a security module, a file server with an
//! opinion of its own. There execve(2) has the last word.

use rustix::fs::{lstat, FileType, Stat};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// MAXSYMLINKS of the kernel.
const LINKS_MAX: usize = 40;

/// Whom a program is to run as.
#[derive(Debug)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// CAP_DAC_OVERRIDE: every directory, and every file that somebody may execute.
    pub overrides: bool,
    /// CAP_DAC_READ_SEARCH: every directory.
    pub searches: bool,
}

impl User {
    /// The first directory on the way to the file at this absolute path that the user may not search, or the file
    /// itself. What cannot be looked at counts as allowed.
    pub fn refused(&self, path: &Path) -> Option<PathBuf> {
        let mut at = PathBuf::from("/");
        let mut rest = steps(path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if !self.may_search(&at) {
                return Some(at);
            }
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            let stat = lstat(&next).ok()?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                at = next;
                continue;
            }
            links += 1;
            let target = std::fs::read_link(&next).ok().filter(|_| links <= LINKS_MAX)?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            rest.extend(steps(&target));
        }
        (!self.may_execute(&at)).then_some(at)
    }

    fn may_search(&self, directory: &Path) -> bool {
        self.overrides || self.searches || self.has_x(directory)
    }

    fn may_execute(&self, file: &Path) -> bool {
        let by_anybody = |stat: Stat| stat.st_mode & 0o111 != 0;
        self.has_x(file) || (self.overrides && lstat(file).is_ok_and(by_anybody))
    }

    fn has_x(&self, path: &Path) -> bool {
        let Ok(stat) = lstat(path) else { return true };
        self.x_of(&stat) || has_acl(path)
    }

    /// The first class that one belongs to decides, whatever the next would give.
    fn x_of(&self, stat: &Stat) -> bool {
        let bit = if stat.st_uid == self.uid {
            0o100
        } else if stat.st_gid == self.gid || self.groups.contains(&stat.st_gid) {
            0o010
        } else {
            0o001
        };
        stat.st_mode & bit != 0
    }
}

/// Where there is one, it may give what the mode does not show (acl(5)).
fn has_acl(path: &Path) -> bool {
    rustix::fs::getxattr(path, "system.posix_acl_access", &mut [0_u8; 0][..]).is_ok_and(|bytes| bytes > 0)
}

/// The names of a path, the last one first.
fn steps(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::from_bytes(b"..").to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, set_permissions, write, Permissions};
    use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};

    fn mode(path: &Path, mode: u32) {
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn user(uid: u32, gid: u32, groups: &[u32]) -> User {
        User { uid, gid, groups: groups.to_vec(), overrides: false, searches: false }
    }

    /// A directory whose parents everybody may search, with `inner/tool` in it and a link to that beside `inner`.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("proton_test_rights_{name}_{}", std::process::id()));
            create_dir(&path).unwrap();
            mode(&path, 0o755);
            create_dir(path.join("inner")).unwrap();
            write(path.join("inner/tool"), "").unwrap();
            symlink("inner/../inner/tool", path.join("link")).unwrap();
            Place(std::fs::canonicalize(path).unwrap())
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn each_directory_on_the_way_is_searched_and_links_are_followed() {
        let place = Place::new("search");
        let owner = std::fs::metadata(&place.0).unwrap();
        let (other, own) =
            (user(owner.uid() + 1, owner.gid() + 1, &[]), user(owner.uid(), owner.gid() + 1, &[]));
        mode(&place.at("inner"), 0o755);
        mode(&place.at("inner/tool"), 0o755);
        assert_eq!(other.refused(&place.at("link")), None);
        mode(&place.at("inner"), 0o700);
        assert_eq!(other.refused(&place.at("link")), Some(place.at("inner")));
        assert_eq!(other.refused(&place.at("inner/tool")), Some(place.at("inner")));
        assert_eq!(own.refused(&place.at("link")), None);
        let searching = User { searches: true, ..user(owner.uid() + 1, owner.gid() + 1, &[]) };
        assert_eq!(searching.refused(&place.at("link")), None);
    }

    #[test]
    fn the_first_class_that_one_belongs_to_decides() {
        let place = Place::new("classes");
        let (tool, owner) = (place.at("inner/tool"), std::fs::metadata(&place.0).unwrap());
        let (uid, gid) = (owner.uid(), owner.gid());
        mode(&place.at("inner"), 0o755);
        mode(&tool, 0o071);
        assert_eq!(user(uid, gid, &[gid]).refused(&tool), Some(tool.clone()));
        assert_eq!(user(uid + 1, gid, &[]).refused(&tool), None);
        assert_eq!(user(uid + 1, gid + 1, &[5, gid]).refused(&tool), None);
        assert_eq!(user(uid + 1, gid + 1, &[]).refused(&tool), None);
        mode(&tool, 0o701);
        assert_eq!(user(uid + 1, gid + 1, &[gid]).refused(&tool), Some(tool.clone()));
        mode(&tool, 0o600);
        let overriding = User { overrides: true, ..user(uid + 1, gid + 1, &[]) };
        assert_eq!(overriding.refused(&tool), Some(tool.clone()));
        mode(&tool, 0o100);
        assert_eq!(overriding.refused(&tool), None);
    }
}
