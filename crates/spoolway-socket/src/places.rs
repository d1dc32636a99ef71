//! Where sockets are, and what outlives a program, when nobody says: one rule for consumers, producers and the binary.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// The directory of sockets: `$SPOOLWAY_SOCKET_DIR`; else the first of `$XDG_RUNTIME_DIR/spoolway` and `/run/spoolway`
/// that is there and may be searched, or could be made; else the [state directory](state_directory()).
///
/// It does not matter whether this user may write to it: who only sends finds the same as who listens. `None` when it
/// comes to the last and there is no home.
pub fn socket_directory() -> Option<PathBuf> {
    Surroundings::read().socket_directory(&is_usable)
}

/// The directory of what outlives a program: `$XDG_STATE_HOME/spoolway`; else for root `/var/lib/spoolway`, for others
/// `~/.local/state/spoolway`. `None` when there is no home.
pub fn state_directory() -> Option<PathBuf> {
    Surroundings::read().state_directory()
}

/// Whether this user could reach a socket there, or make the directory.
fn is_usable(directory: &Path) -> bool {
    let may = |path: &Path, what| access(path, what).is_ok();
    match directory.is_dir() {
        true => may(directory, Access::EXEC_OK),
        false => directory
            .parent()
            .is_some_and(|parent| may(parent, Access::WRITE_OK | Access::EXEC_OK)),
    }
}

/// What the directories depend on.
#[derive(Debug, Default)]
struct Surroundings {
    socket_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    state_home: Option<PathBuf>,
    home: Option<PathBuf>,
    root: bool,
}

impl Surroundings {
    fn read() -> Self {
        // A relative path in these variables is to be ignored, says the XDG specification.
        let absolute = |name| {
            let path = PathBuf::from(std::env::var_os(name)?);
            path.is_absolute().then_some(path)
        };
        Self {
            socket_dir: std::env::var_os("SPOOLWAY_SOCKET_DIR")
                .filter(|text| !text.is_empty())
                .map(PathBuf::from),
            runtime_dir: absolute("XDG_RUNTIME_DIR"),
            state_home: absolute("XDG_STATE_HOME"),
            home: absolute("HOME"),
            root: rustix::process::geteuid().is_root(),
        }
    }

    fn socket_directory(&self, is_usable: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
        if let Some(directory) = &self.socket_dir {
            return Some(directory.clone());
        }
        let runtime = self.runtime_dir.as_ref().map(|path| path.join("spoolway"));
        [runtime, Some("/run/spoolway".into())]
            .into_iter()
            .flatten()
            .find(|directory| is_usable(directory))
            .or_else(|| self.state_directory())
    }

    fn state_directory(&self) -> Option<PathBuf> {
        let user = || Some(self.home.as_ref()?.join(".local/state/spoolway"));
        match &self.state_home {
            Some(path) => Some(path.join("spoolway")),
            None if self.root => Some("/var/lib/spoolway".into()),
            None => user(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_usable_directory_has_the_socket() {
        let mut around = Surroundings {
            runtime_dir: Some("/run/user/7".into()),
            home: Some("/home/a".into()),
            ..Surroundings::default()
        };
        let found = |around: &Surroundings, usable: &[&str]| {
            let usable: Vec<PathBuf> = usable.iter().map(PathBuf::from).collect();
            around
                .socket_directory(&|path| usable.iter().any(|one| one == path))
                .map(|path| path.display().to_string())
        };
        let all = ["/run/user/7/spoolway", "/run/spoolway"];
        assert_eq!(
            found(&around, &all).as_deref(),
            Some("/run/user/7/spoolway")
        );
        assert_eq!(found(&around, &all[1..]).as_deref(), Some("/run/spoolway"));
        assert_eq!(
            found(&around, &[]).as_deref(),
            Some("/home/a/.local/state/spoolway")
        );
        around.socket_dir = Some("/mine".into());
        assert_eq!(found(&around, &all).as_deref(), Some("/mine"));
        assert_eq!(found(&Surroundings::default(), &[]), None);
    }

    #[test]
    fn what_outlives_a_program_is_in_the_state_directory() {
        let mut around = Surroundings {
            home: Some("/root".into()),
            root: true,
            ..Surroundings::default()
        };
        assert_eq!(around.state_directory(), Some("/var/lib/spoolway".into()));
        around.root = false;
        assert_eq!(
            around.state_directory(),
            Some("/root/.local/state/spoolway".into())
        );
        around.state_home = Some("/state".into());
        assert_eq!(around.state_directory(), Some("/state/spoolway".into()));
    }

    #[test]
    fn a_directory_is_usable_when_it_is_there_or_could_be_made() {
        let directory = tempfile::tempdir().unwrap();
        assert!(is_usable(directory.path()));
        assert!(is_usable(&directory.path().join("spoolway")));
        assert!(!is_usable(&directory.path().join("nowhere/spoolway")));
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(!is_usable(&file.join("spoolway")));
    }
}
