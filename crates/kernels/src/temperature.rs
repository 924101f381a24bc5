//! Factors that make queries of far positions sharper (Nakanishi 2025, arXiv:2501.19399).

/// Fills `out` with 1 + scale · ln(1 + ⌊(position + 1) / floor⌋) of each position. The quotient is of single precision, as in
/// Hugging Face transformers, the logarithm of double precision.
///
/// # Panics
/// If there are not as many as positions.
pub fn temperature(floor: f32, scale: f32, positions: &[u32], out: &mut [f32]) {
    assert!(out.len() == positions.len());
    for (&p, out) in positions.iter().zip(out) {
        let steps = ((p as f32 + 1.0) / floor).floor();
        *out = libm::log1p(f64::from(steps)) as f32 * scale + 1.0;
    }
}
