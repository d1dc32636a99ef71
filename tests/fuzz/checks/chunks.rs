//! A stream of bytes, and how it comes in.
//!
//! ```text
//! offset  0             1          1 + n
//!         +------+------+----------+---------+
//!         | max  | n    | sizes    | stream  |   max: 2 bits, 2 unused, n: 4 bits
//!         +------+------+----------+---------+
//! ```
//!
//! The sizes are repeated; without any the stream comes whole.

/// What a stream's limit may be: close to what small inputs hold, and far from it.
const LIMITS: [usize; 4] = [usize::MAX, 300, 16, 4];

pub(crate) struct Chunks<'a> {
    /// The limit of a frame or a line, in bytes.
    pub(crate) bytes_max: usize,
    sizes: &'a [u8],
    pub(crate) stream: &'a [u8],
}

impl<'a> Chunks<'a> {
    pub(crate) fn of(input: &'a [u8]) -> Option<Self> {
        let (&first, rest) = input.split_first()?;
        let (sizes, stream) = rest.split_at_checked(usize::from(first & 0x0f))?;
        Some(Self {
            bytes_max: LIMITS[usize::from(first >> 6)],
            sizes,
            stream,
        })
    }

    /// The same stream in one piece.
    pub(crate) fn undivided(&self) -> Self {
        Self {
            sizes: &[],
            ..*self
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut sizes = self.sizes.iter().cycle();
        let mut rest = self.stream;
        std::iter::from_fn(move || {
            let size = sizes.next().map_or(rest.len(), |&size| size.into());
            let (now, later) = rest.split_at(size.max(1).min(rest.len()));
            rest = later;
            (!now.is_empty()).then_some(now)
        })
    }
}
