//! SentencePiece's compiled normalisation rules: a double array of prefixes, and what each is replaced by.
//! Layout: u32 bytes of the array; the array, u32 each; replacement texts, each ended by a zero byte.

/// The rules.
#[derive(Clone, Debug)]
pub(crate) struct Charsmap {
    units: Vec<u32>,
    texts: Vec<u8>,
}

impl Charsmap {
    /// Reads the rules; the error says what is wrong.
    pub(crate) fn new(blob: &[u8]) -> Result<Charsmap, &'static str> {
        let (len, rest) = blob.split_first_chunk().ok_or("is shorter than its length field")?;
        let len = u32::from_le_bytes(*len) as usize;
        let (array, texts) = rest.split_at_checked(len).ok_or("ends inside of its double array")?;
        let units = array.chunks_exact(4).map(|b| b.iter().rev().fold(0, |v, &x| v << 8 | u32::from(x))).collect();
        Ok(Charsmap { units, texts: texts.to_vec() })
    }

    /// All rules for prefixes of `bytes`, shortest first: length of the prefix and its replacement.
    pub(crate) fn rules<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = (usize, &'a [u8])> + 'a {
        let unit = |i: u32| self.units.get(i as usize).copied();
        let base = |u: u32| (u >> 10) << ((u & 1 << 9) >> 6);
        let mut node = unit(0).map(base);
        let mut len = 0;
        std::iter::from_fn(move || {
            loop {
                let &byte = bytes.get(len).filter(|&&b| b != 0)?;
                let at = node? ^ u32::from(byte);
                let here = unit(at).filter(|u| u & (1 << 31 | 0xff) == u32::from(byte));
                node = here.map(|u| at ^ base(u));
                len += 1;
                if here? >> 8 & 1 == 1 {
                    let from = self.texts.get((unit(node?)? & !(1 << 31)) as usize..)?;
                    let text = from.get(..from.iter().position(|&b| b == 0)?)?;
                    return Some((len, text));
                }
            }
        })
    }
}
