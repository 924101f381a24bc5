//! The mean of rows.

/// The mean of the rows of `x`, `[rows, out.len()]`: each column has one accumulator, rows ascend.
///
/// # Panics
/// If `x` has no whole number of rows, or none.
pub fn mean(x: &[f32], out: &mut [f32]) {
    let cols = out.len();
    assert!(cols > 0 && !x.is_empty() && x.len().is_multiple_of(cols));
    out.fill(0.0);
    for row in x.chunks_exact(cols) {
        out.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    let n = (x.len() / cols) as f32;
    out.iter_mut().for_each(|sum| *sum /= n);
}
