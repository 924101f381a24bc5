//! State space layers. Fused matrices and filters are split by rows, so that no value has to be taken apart.

use super::{Builder, Built};
use crate::weights::Rows;
use crate::{GateNorm, Norm, Ssm, SsmKind};
use alula_graph::{Op, StateSpec, Unary, ValueId};

impl Builder<'_> {
    /// A state space of `x`, the layer's normalised input.
    pub(super) fn ssm(&mut self, i: usize, s: &Ssm, x: ValueId) -> Built {
        let at = |part: &str| format!("blk.{i}.{part}");
        let (input, shared) = (at("ssm_in"), s.groups.saturating_mul(s.state).min(1 << 48));
        // How many filters there are, and rows of the fused matrix beside those and the gate.
        let (filters, rest) = match s.kind {
            SsmKind::Mamba { rank, .. } => {
                self.weights.whole(&at("ssm_x.weight"), rank.saturating_add(2 * shared))?;
                (s.inner, 0)
            }
            SsmKind::Mamba2 { .. } => (s.inner.saturating_add(2 * shared), s.heads),
        };
        self.weights.whole(&at("ssm_in.weight"), s.inner.saturating_add(filters).saturating_add(rest))?;
        self.weights.whole(&at("ssm_conv1d.weight"), filters)?;
        let (u, [dt, b, c], z) = match s.kind {
            SsmKind::Mamba { rank, norm } => {
                let u = self.linear(&at("ssm_u"), &input, x, s.inner, Rows::From(0))?;
                let z = self.linear(&at("ssm_z"), &input, x, s.inner, Rows::From(s.inner))?;
                let u = self.conv(i, s, u, 0)?;
                let (mut first, mut parts) = (0, [u; 3]);
                for ((part, n), v) in [("dt", rank), ("b", shared), ("c", shared)].into_iter().zip(&mut parts) {
                    *v = self.linear(&at(&format!("ssm_{part}_low")), &at("ssm_x"), u, n, Rows::From(first))?;
                    first += n;
                }
                if let Some(norm) = norm {
                    for ((part, n), v) in [("dt", rank), ("b", shared), ("c", shared)].into_iter().zip(&mut parts) {
                        *v = self.norm_or_ones(&at(&format!("ssm_{part}_norm")), norm, *v, n)?;
                    }
                }
                parts[0] = self.linear(&at("ssm_dt"), &at("ssm_dt"), parts[0], s.heads, Rows::All)?;
                parts[0] = self.push(at("ssm_dt_step"), Op::Map(Unary::Softplus), &[parts[0]], &[])?;
                (u, parts, z)
            }
            SsmKind::Mamba2 { limits, .. } => {
                let sizes = [s.inner, s.inner, shared, shared, s.heads];
                let (mut first, mut values) = (0, [x; 5]);
                for ((part, n), v) in ["z", "u", "b", "c", "dt"].into_iter().zip(sizes).zip(&mut values) {
                    *v = self.linear(&at(&format!("ssm_{part}")), &input, x, n, Rows::From(first))?;
                    first += n;
                }
                let [z, mut u, mut b, mut c, dt] = values;
                let mut dt = self.biased(&at("ssm_dt"), dt)?;
                dt = self.push(at("ssm_dt_step"), Op::Map(Unary::Softplus), &[dt], &[])?;
                if let Some((lo, hi)) = limits {
                    dt = self.push(at("ssm_dt_limited"), Op::Map(Unary::Clamp(lo, hi)), &[dt], &[])?;
                }
                let mut first = 0;
                for v in [&mut u, &mut b, &mut c] {
                    let n = self.graph.shape(*v).cols;
                    *v = self.conv(i, s, *v, first)?;
                    first += n;
                }
                (u, [dt, b, c], z)
            }
        };
        let a = match s.kind {
            SsmKind::Mamba { .. } => self.weight(&at("ssm_a"), &[s.heads, s.state], Rows::All)?,
            SsmKind::Mamba2 { .. } => self.weight(&at("ssm_a"), &[s.heads], Rows::All)?,
        };
        let d = self.weight(&at("ssm_d"), &[s.heads], Rows::All)?;
        let state = self.graph.state(StateSpec::Fixed { len: s.inner.saturating_mul(s.state) });
        let op = Op::Scan { state, heads: s.heads, groups: s.groups };
        let y = self.push(at("ssm_scan"), op, &[u, dt, b, c], &[a, d])?;
        let gated = |b: &mut Self, y| b.push(at("ssm_gated"), Op::Glu(Unary::Silu), &[z, y], &[]);
        let y = match s.kind {
            SsmKind::Mamba2 { norm: Some((norm, place)), .. } => {
                let w = self.weight(&at("ssm_norm.weight"), &[s.groups, s.inner / s.groups], Rows::All)?;
                let op = Op::Norm { kind: norm.kind, eps: norm.eps };
                if place == GateNorm::After {
                    let y = gated(self, y)?;
                    self.push(at("ssm_norm"), op, &[y], &[w])?
                } else {
                    let y = self.push(at("ssm_norm"), op, &[y], &[w])?;
                    gated(self, y)?
                }
            }
            _ => gated(self, y)?,
        };
        self.linear(&at("ssm_out"), &at("ssm_out"), y, self.spec.width, Rows::All)
    }

    /// Columns with a bias beside that of the matrix which made them: filters of one tap.
    fn biased(&mut self, stem: &str, x: ValueId) -> Built {
        let n = self.graph.shape(x).cols;
        let (ones, bias) = (self.weights.ones(&[n, 1]), self.weight(&format!("{stem}.bias"), &[n], Rows::All)?);
        let (ones, state) = (self.graph.weight(ones, &[n, 1]), self.graph.state(StateSpec::Fixed { len: 0 }));
        self.push(format!("{stem}.biased"), Op::Conv { state }, &[x], &[ones, bias])
    }

    /// The convolution of columns whose filters begin at `first`, and what follows it.
    fn conv(&mut self, i: usize, s: &Ssm, x: ValueId, first: usize) -> Built {
        let (stem, c) = (format!("blk.{i}.ssm_conv1d"), self.graph.shape(x).cols);
        let mut w = vec![self.weight(&format!("{stem}.weight"), &[c, s.taps], Rows::From(first))?];
        w.extend(self.bias(&stem, c, Rows::From(first))?);
        let state = self.graph.state(StateSpec::Fixed { len: (s.taps - 1).saturating_mul(c) });
        let y = self.push(format!("{stem}.{first}"), Op::Conv { state }, &[x], &w)?;
        self.push(format!("{stem}.{first}.act"), Op::Map(s.act), &[y], &[])
    }

    /// A norm that has weights of 1 where the file has none.
    fn norm_or_ones(&mut self, stem: &str, norm: Norm, x: ValueId, n: usize) -> Built {
        if self.weights.shape(&format!("{stem}.weight")).is_some() {
            return self.norm(stem, norm, x, n);
        }
        let ones = self.weights.ones(&[n]);
        let w = self.graph.weight(ones, &[n]);
        self.push(stem, Op::Norm { kind: norm.kind, eps: norm.eps }, &[x], &[w])
    }
}
