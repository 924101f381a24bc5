//! Texts as encoders read them: one or two, special tokens around them, of limited length.

/// A text, or two, with the special tokens that the model wants around them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Framed {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Which text a token is of, as the model counts them: BERT has 1 for the second, others have 0 for both.
    pub types: Vec<u32>,
    /// Tokens that were cut off, as there was no room for them.
    pub cut: usize,
}

/// How many tokens of two texts stay where there is room for so many: the longer text loses its end first, then both
/// alike (`longest_first` of the tokenizers library, to the token).
pub(crate) fn shares(a: usize, b: usize, room: usize) -> (usize, usize) {
    if a + b <= room {
        return (a, b);
    }
    let mut short = a.min(b);
    let mut long = short.max(room.saturating_sub(short));
    if short + long > room {
        (short, long) = (room / 2, room / 2 + room % 2);
    }
    if a > b { (long, short) } else { (short, long) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_text_loses_first() {
        // Room, lengths, and what tokenizers 0.23's `truncate_encodings` leaves of them.
        for (room, a, b, want) in [
            (10, 4, 6, (4, 6)),
            (10, 0, 0, (0, 0)),
            (10, 12, 0, (10, 0)),
            (10, 3, 9, (3, 7)),
            (10, 9, 3, (7, 3)),
            (10, 8, 9, (5, 5)),
            (11, 8, 9, (5, 6)),
            (11, 9, 8, (6, 5)),
            (11, 30, 20, (6, 5)),
            (11, 9, 9, (5, 6)),
            (0, 5, 5, (0, 0)),
            (1, 5, 5, (0, 1)),
        ] {
            assert_eq!(shares(a, b, room), want, "{a} and {b} tokens, room for {room}");
        }
    }
}
