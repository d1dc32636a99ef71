//! What is left alone, each kind with one warning.

use std::ffi::OsStr;
use std::path::Path;

/// Why something is left alone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LeftAlone {
    Directory,
    Link,
    Name,
    NoJson,
    Special,
    Temporary,
    TooMany,
    Unreadable,
}

/// Which kinds of things were warned of.
#[derive(Clone, Copy, Default)]
pub(crate) struct Warned(u8);

impl Warned {
    /// Warns, the first time for this kind.
    pub(crate) fn of(&mut self, why: LeftAlone, place: &Path, name: &OsStr) {
        let bit = 1 << why as u8;
        if self.0 & bit == 0 {
            self.0 |= bit;
            let (place, why) = (place.display(), why.text());
            tracing::warn!("left alone in {place}, the first of its kind: {name:?} {why}");
        }
    }
}

impl LeftAlone {
    fn text(self) -> &'static str {
        match self {
            Self::Directory => "is a directory",
            Self::Link => "is a link, or has one in its path: only files are taken",
            Self::Name => {
                "has a name that cannot be an id: 1 to 128 bytes of UTF-8 without control characters"
            }
            Self::NoJson => "does not end in `.json`",
            Self::Special => "is neither a file nor a directory that belongs here",
            Self::Temporary => "is a temporary file that nobody has renamed for a minute",
            Self::TooMany => "is one folder too many: 1,000 are taken from",
            Self::Unreadable => "cannot be read: see its mode and owner",
        }
    }
}
