//! Multi-head latent attention.

use super::{Builder, Built};
use crate::weights::Rows;
use crate::{Latent, Norm};
use alula_graph::{Op, StateSpec, ValueId};

impl Builder<'_> {
    pub(super) fn latent(&mut self, i: usize, a: &Latent, norm: Norm, x: ValueId) -> Built {
        let norm = Norm { eps: a.eps, ..norm };
        let at = |part: &str| format!("blk.{i}.{part}");
        let Latent { heads, rank, plain_dim: plain, rope_dim, value_dim: value, .. } = *a;
        let (table, style) = (self.tables[a.rope], self.spec.ropes[a.rope].style);
        let rope = Op::Rope { style, head_dim: rope_dim };

        let all = |each: usize| heads.saturating_mul(each);
        for (part, rows) in
            [("kv_a_mqa", rank + rope_dim), ("kv_b", all(plain + value)), ("k_b", all(rank)), ("v_b", all(value))]
        {
            self.weights.whole(&at(&format!("attn_{part}.weight")), rows)?;
        }

        // Queries: of each head the plain columns, projected into the latent space, and the rotated ones.
        let (stem, input) = match a.query_rank {
            Some(n) => {
                let low = self.linear(&at("attn_q_a"), &at("attn_q_a"), x, n, Rows::All)?;
                ("attn_q_b", self.norm(&at("attn_q_a_norm"), norm, low, n)?)
            }
            None => ("attn_q", x),
        };
        let of = plain + rope_dim;
        let rows = Rows::Each { first: 0, len: plain, of };
        let q = self.linear(&at("attn_q_plain"), &at(stem), input, heads * plain, rows)?;
        let rows = Rows::Each { first: plain, len: rope_dim, of };
        let q_rope = self.linear(&at("attn_q_rope_in"), &at(stem), input, heads * rope_dim, rows)?;
        let q_rope = self.push(at("attn_q_rope"), rope.clone(), &[q_rope, table], &[])?;
        let split = self.weights.shape(&at("attn_k_b.weight")).is_some();
        let mut w = Vec::with_capacity(heads);
        for head in 0..heads {
            w.push(match split {
                true => self.weight(&at("attn_k_b.weight"), &[rank, plain], Rows::From(head * rank))?,
                false => {
                    self.weight(&at("attn_kv_b.weight"), &[rank, plain], Rows::Transposed(head * (plain + value)))?
                }
            });
        }
        let q = self.push(at("attn_q_latent"), Op::Parts, &[q], &w)?;
        let q = self.push(at("attn_q_all"), Op::Concat { heads }, &[q, q_rope], &[])?;

        // Keys: the latent and the rotated columns, the same for all heads. Values: the latent.
        let stem = at("attn_kv_a_mqa");
        let latent = self.linear(&at("attn_kv_a"), &stem, x, rank, Rows::From(0))?;
        let latent = self.norm(&at("attn_kv_a_norm"), norm, latent, rank)?;
        let k_rope = self.linear(&at("attn_k_rope_in"), &stem, x, rope_dim, Rows::From(rank))?;
        let k_rope = self.push(at("attn_k_rope"), rope, &[k_rope, table], &[])?;
        let k = self.push(at("attn_k_all"), Op::Concat { heads: 1 }, &[latent, k_rope], &[])?;

        let key_dim = rank + rope_dim;
        let state = StateSpec::Paged { heads: 1, key_dim, value_dim: rank, shared: true, window: None };
        let state = self.graph.state(state);
        let op = Op::Attend { state, heads, scale: a.scale, soft_cap: None, causal: true };
        let mixed = self.push(at("attn"), op, &[q, k, k], &[])?;
        let mut w = Vec::with_capacity(heads);
        for head in 0..heads {
            w.push(match split {
                true => self.weight(&at("attn_v_b.weight"), &[value, rank], Rows::From(head * value))?,
                false => {
                    let first = head * (plain + value) + plain;
                    self.weight(&at("attn_kv_b.weight"), &[value, rank], Rows::From(first))?
                }
            });
        }
        let mixed = self.push(at("attn_v"), Op::Parts, &[mixed], &w)?;
        self.linear(&at("attn_output"), &at("attn_output"), mixed, self.spec.width, Rows::All)
    }
}
