//! The regular expressions of pre-tokenizers: `fancy-regex`, which knows look-around and bounds its backtracking.

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(crate) struct Regex(fancy_regex::Regex);

/// A pattern took more steps than its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooSlow;

impl Regex {
    /// Compiles a pattern; the error says what is wrong or not known.
    pub(crate) fn new(pattern: &str) -> Result<Regex, String> {
        let compiled = fancy_regex::RegexBuilder::new(pattern).backtrack_limit(200_000_000).build();
        compiled.map(Regex).map_err(|e| e.to_string())
    }

    /// All matches from left to right, as `visit(start, end)`.
    pub(crate) fn find_all(&self, text: &str, mut visit: impl FnMut(usize, usize)) -> Result<(), TooSlow> {
        for found in self.0.find_iter(text) {
            let found = found.map_err(|_| TooSlow)?;
            visit(found.start(), found.end());
        }
        Ok(())
    }
}
