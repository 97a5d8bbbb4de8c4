// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! The user database as libc reads it (NSS): whoever asks may wait for a
//! server for seconds, or for ever.

use rustix::io::Errno;
use std::ffi::{c_char, c_int, CStr, CString};
use std::mem::MaybeUninit;

/// A line of the user database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: Vec<u8>,
    pub uid: u32,
    pub gid: u32,
    pub home: Vec<u8>,
}

/// The most that a line may take: beyond it nothing sane is in it.
const LINE_MAX: usize = 1 << 20;

/// Calls `ask` with more and more room for the texts of a line, until it has enough. `Ok(false)`: there is no such.
fn with_room(mut ask: impl FnMut(&mut [u8]) -> (c_int, bool)) -> Result<bool, Errno> {
    let mut room = vec![0_u8; 1024];
    loop {
        match ask(&mut room) {
            (0, found) => return Ok(found),
            // What databases say of a name that they do not know, by getpwnam(3).
            (libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM, _) => return Ok(false),
            (libc::EINTR, _) => {}
            (libc::ERANGE, _) if room.len() < LINE_MAX => room = vec![0; 4 * room.len()],
            (errno, _) => return Err(Errno::from_raw_os_error(errno)),
        }
    }
}

fn text(at: *const c_char) -> Vec<u8> {
    if at.is_null() {
        return Vec::new();
    }
    // SAFETY: a C string of a line that libc has just filled in, whose room outlives this call.
    unsafe { CStr::from_ptr(at) }.to_bytes().to_vec()
}

type Call<'a> = &'a dyn Fn(*mut libc::passwd, *mut c_char, usize, *mut *mut libc::passwd) -> c_int;

fn user(call: Call<'_>) -> Result<Option<User>, Errno> {
    let mut user = None;
    let found = with_room(|room| {
        let mut line = MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        let result = call(line.as_mut_ptr(), room.as_mut_ptr().cast(), room.len(), &raw mut found);
        if result != 0 || found.is_null() {
            return (result, false);
        }
        // SAFETY: libc says that it has found one, and has then filled it in.
        let line = unsafe { line.assume_init() };
        let (uid, gid) = (line.pw_uid, line.pw_gid);
        user = Some(User { name: text(line.pw_name), uid, gid, home: text(line.pw_dir) });
        (result, true)
    })?;
    Ok(user.filter(|_| found))
}

/// EINVAL where no C string can hold the name.
fn c_string(name: &[u8]) -> Result<CString, Errno> {
    CString::new(name).map_err(|_| Errno::INVAL)
}

pub fn user_named(name: &[u8]) -> Result<Option<User>, Errno> {
    let name = c_string(name)?;
    // SAFETY: all that is handed over is ours and outlives the call.
    user(&|line, room, bytes, found| unsafe { libc::getpwnam_r(name.as_ptr(), line, room, bytes, found) })
}

pub fn user_of(uid: u32) -> Result<Option<User>, Errno> {
    // SAFETY: as above.
    user(&|line, room, bytes, found| unsafe { libc::getpwuid_r(uid, line, room, bytes, found) })
}

/// The number of a group.
pub fn group_named(name: &[u8]) -> Result<Option<u32>, Errno> {
    let name = c_string(name)?;
    let mut gid = None;
    let found = with_room(|room| {
        let mut line = MaybeUninit::<libc::group>::uninit();
        let mut found = std::ptr::null_mut();
        let (at, bytes) = (room.as_mut_ptr().cast(), room.len());
        // SAFETY: all that is handed over is ours and outlives the call.
        let result = unsafe { libc::getgrnam_r(name.as_ptr(), line.as_mut_ptr(), at, bytes, &raw mut found) };
        if result != 0 || found.is_null() {
            return (result, false);
        }
        // SAFETY: libc says that it has found one, and has then filled it in.
        gid = Some(unsafe { line.assume_init() }.gr_gid);
        (result, true)
    })?;
    Ok(gid.filter(|_| found))
}

/// NGROUPS_MAX.
const GROUPS_MAX: usize = 65_536;

/// The groups of a user by the group database, `gid` among them: what initgroups(3) would set.
pub fn groups_of(name: &[u8], gid: u32) -> Result<Vec<u32>, Errno> {
    let name = c_string(name)?;
    let mut groups = vec![0; 64];
    loop {
        let mut count = groups.len() as c_int;
        // SAFETY: `groups` is ours, has the length that is said and outlives the call.
        let result = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        if result >= 0 {
            groups.truncate(count.max(0) as usize);
            return Ok(groups);
        }
        if groups.len() >= GROUPS_MAX {
            return Err(Errno::RANGE);
        }
        groups = vec![0; (4 * groups.len()).min(GROUPS_MAX)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_by_name_and_number_and_nobody_of_no_name_is() {
        let root = user_named(b"root").expect("an answer").expect("root");
        assert_eq!((root.uid, root.gid, &root.name[..]), (0, 0, &b"root"[..]));
        assert_eq!(user_of(0), Ok(Some(root)));
        assert_eq!(user_named(b"no such user here"), Ok(None));
        assert_eq!(user_of(3_999_999_999), Ok(None));
        assert_eq!(user_named(b"a\0b"), Err(Errno::INVAL));
        assert_eq!(group_named(b"root"), Ok(Some(0)));
        assert_eq!(group_named(b"no such group here"), Ok(None));
        assert_eq!(groups_of(b"no such user here", 4711), Ok(vec![4711]));
    }

    #[test]
    fn a_line_gets_the_room_that_it_needs_and_no_more_than_there_is() {
        let mut rooms = Vec::new();
        let found = with_room(|room| {
            rooms.push(room.len());
            if room.len() < 20_000 {
                (libc::ERANGE, false)
            } else {
                (0, true)
            }
        });
        assert_eq!((found, rooms), (Ok(true), vec![1024, 4096, 16_384, 65_536]));
        assert_eq!(with_room(|_| (libc::ERANGE, false)), Err(Errno::RANGE));
        assert_eq!(with_room(|_| (libc::ESRCH, false)), Ok(false));
        assert_eq!(with_room(|_| (libc::EIO, false)), Err(Errno::IO));
    }
}
