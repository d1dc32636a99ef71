//! Who may connect: by the file of the socket, and by what the system says of a peer.

use std::fs;
use std::io;
use std::iter;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use rustix::fs::{XattrFlags, setxattr};
use rustix::io::Errno;
use tokio::net::UnixStream;

/// Who may connect beside the user of the process and root, who always may. Default: nobody.
///
/// With somebody on the list the socket's mode is 0660. One group becomes the socket's; more of them, and users, are
/// put on its access control list (`getfacl` shows it), so that the system lets in whom the list names and nobody else.
/// The file of an inherited socket stays as it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Access {
    /// Users.
    pub uids: Vec<u32>,
    /// Groups, to which a peer belongs by its own or a supplementary group.
    pub gids: Vec<u32>,
}

/// Who is at the other end of a connection, as the system said when it was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its process, where the system tells.
    pub pid: Option<u32>,
    /// It is of the user of this process, or root. Others may send.
    pub may_administer: bool,
}

impl Peer {
    /// Who is at the other end of it.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let found = stream.peer_cred()?;
        Ok(Self {
            uid: found.uid(),
            gid: found.gid(),
            // A process outside of our own pid namespace is told as 0.
            pid: found
                .pid()
                .and_then(|pid| u32::try_from(pid).ok())
                .filter(|pid| *pid != 0),
            may_administer: [0, rustix::process::geteuid().as_raw()].contains(&found.uid()),
        })
    }
}

impl Access {
    /// Whether nobody but the user of the process and root may connect.
    pub fn is_private(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }

    /// Whether the peer may send to the socket at `path`, which is `ours` if its file was made by this list.
    ///
    /// The system tells one group of a peer, not its others. It has asked for those itself when the peer connected, so a
    /// peer that came through a file which is closed to all that are not on it is in a group that is.
    pub(crate) fn admits(&self, peer: &Peer, path: &Path, ours: bool) -> bool {
        let by_file = |file: fs::Metadata| {
            file.mode() & 0o007 == 0 && (ours || self.gids.contains(&file.gid()))
        };
        peer.may_administer
            || self.uids.contains(&peer.uid)
            || self.gids.contains(&peer.gid)
            || !self.gids.is_empty() && fs::metadata(path).is_ok_and(by_file)
    }

    /// Gives a file that nobody can use yet its group, its mode and its list.
    pub(crate) fn apply(&self, path: &Path) -> io::Result<()> {
        let mode = |mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        if self.is_private() {
            return mode(0o600);
        }
        if let ([], [gid]) = (&*self.uids, &*self.gids) {
            // Who is not in the group may not give the file to it, but may put it on the list.
            match chown(path, None, Some(*gid)) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                given => return given.and_then(|()| mode(0o660)),
            }
        }
        // Its mode is 0660 then: of a file with a list, the bits of the group say what the list may grant.
        let acl = self.list();
        setxattr(path, "system.posix_acl_access", &acl, XattrFlags::empty()).map_err(|errno| {
            match errno {
                Errno::NOTSUP => io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the file system has no access control lists: allow one group alone, and be a member of it",
                ),
                errno => errno.into(),
            }
        })
    }

    /// As the system takes it: a version, then tag, permissions and id of each entry, in the order of tags.
    fn list(&self) -> Vec<u8> {
        const VERSION: u32 = 2;
        const READ_WRITE: u16 = 6;
        const NO_ID: u32 = u32::MAX;
        let [owner, user, own_group, group, mask, others] = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20];
        let of = |tag: u16, ids: &[u32]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids.dedup();
            ids.into_iter().map(move |id| (tag, READ_WRITE, id))
        };
        let entries = iter::once((owner, READ_WRITE, NO_ID))
            .chain(of(user, &self.uids))
            .chain([(own_group, 0, NO_ID)])
            .chain(of(group, &self.gids))
            .chain([(mask, READ_WRITE, NO_ID), (others, 0, NO_ID)]);
        let mut list = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(permissions.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        list
    }
}
