// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors
//! What every kind of record has in common, and the one law they all keep.
//! Used by the tests and by the cargo-fuzz targets in fuzz/.

use proton_stream::kernel::wire::plan::Plan;
use proton_stream::kernel::wire::{
    Attributes, FromGuardian, FromKeeper, Launch, Lookup, Malformed, Scope, Spec, Stdio, ToGuardian,
    ToKeeper, Who, Writer, ABI,
};
use std::fmt::Debug;

/// A kind of record that crosses the ABI or a socket.
pub trait Record: Debug + PartialEq + Sized {
    fn encoded(&self) -> Vec<u8>;
    fn decoded(bytes: &[u8]) -> Result<Self, Malformed>;
}

macro_rules! record {
    ($($t:ident),+) => {$(
        impl Record for $t {
            fn encoded(&self) -> Vec<u8> {
                self.encode()
            }
            fn decoded(bytes: &[u8]) -> Result<Self, Malformed> {
                $t::decode(bytes)
            }
        }
    )+};
}
record!(ToGuardian, FromGuardian, ToKeeper, FromKeeper, Launch);

/// The crate only reads specs, TypeScript writes them: written here as docs/abi.md says.
impl Record for Spec {
    fn encoded(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u32(ABI).u32(flags(self));
        w.u32(self.grace_ms).u32(self.flush_ms).u32(self.timeout_ms.unwrap_or(u32::MAX));
        w.raw(&self.stdio.map(stdio)).raw(&[0]);
        for mode in self.stdio {
            if let Stdio::Descriptor(number) = mode {
                w.u32(number);
            }
        }
        w.blob(&self.command).blob(&self.arg0).blob(&self.cwd);
        w.u32(self.args.len() as u32);
        for arg in &self.args {
            w.blob(arg);
        }
        w.u32(self.env.len() as u32);
        for (key, value) in &self.env {
            w.blob(key).u32(u32::from(value.is_some())).blob(value.as_deref().unwrap_or_default());
        }
        if let Some(view) = &self.view {
            w.u32(view.len() as u32);
            for (key, value) in view {
                w.blob(key).blob(value);
            }
        }
        Attributes::put(self.asked.as_deref(), &mut w);
        Plan::put(self.plan.as_ref(), &mut w);
        w.done()
    }

    fn decoded(bytes: &[u8]) -> Result<Self, Malformed> {
        Spec::decode(bytes)
    }
}

/// As [`Spec`].
impl Record for Lookup {
    fn encoded(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u32(ABI);
        for who in [&self.user, &self.group] {
            match who {
                Who::Nobody => w.u32(0),
                Who::Name(name) => w.u32(1).blob(name),
                Who::Number(id) => w.u32(2).u32(*id),
            };
        }
        w.u32(self.groups.len() as u32);
        for name in &self.groups {
            w.blob(name);
        }
        w.done()
    }

    fn decoded(bytes: &[u8]) -> Result<Self, Malformed> {
        Lookup::decode(bytes)
    }
}

fn flags(spec: &Spec) -> u32 {
    let all = [
        spec.clear_env,
        spec.kill_on_owner_death,
        spec.view.is_some(),
        spec.no_cgroup,
        spec.close_scope == Scope::Child,
        spec.close_scope == Scope::Group,
    ];
    all.iter().enumerate().map(|(bit, &on)| u32::from(on) << bit).sum()
}

fn stdio(mode: Stdio) -> u8 {
    match mode {
        Stdio::Piped => 0,
        Stdio::Inherit => 1,
        Stdio::Null => 2,
        Stdio::Descriptor(_) => 3,
        Stdio::Stdout => 4,
    }
}

/// The law: whatever the bytes are, decoding comes back, and what it takes for
/// a record has these bytes and no others. So no byte is read over, and two
/// sides cannot understand the same bytes differently.
pub fn lawful<R: Record>(bytes: &[u8]) -> Option<R> {
    let record = R::decoded(bytes).ok()?;
    assert_eq!(record.encoded(), bytes, "{record:?} has other bytes than those it was read from");
    Some(record)
}
