//! Half-width floats to `f32`, exact for every bit pattern: subnormals, infinities and NaNs included.

/// IEEE binary16 bits to `f32`. NaNs come out quiet with their sign and payload, as hardware converts them.
#[inline]
pub fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // 112 moves the exponent bias from 15 to 127. Subnormals are what a number has beyond 2^-14: so no operand is subnormal,
    // which processors are slow with.
    let least = f32::from_bits(113 << 23);
    let scaled = match magnitude >> 23 {
        0 => (f32::from_bits(magnitude + (113 << 23)) - least).to_bits(),
        _ => magnitude + (112 << 23),
    };
    let special = match magnitude {
        0..0x0f80_0000 => 0,
        0x0f80_0000 => 0x7f80_0000,
        _ => 0x7fc0_0000,
    };
    f32::from_bits(u32::from(bits & 0x8000) << 16 | scaled | special)
}

/// bfloat16 bits to `f32`: the upper half of an `f32`.
#[inline]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest binary16's bits, ties to even. NaN stays NaN.
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let (sign, magnitude) = ((bits >> 16 & 0x8000) as u16, bits & 0x7fff_ffff);
    sign | match magnitude {
        0x7f80_0001.. => 0x7e00,
        0x477f_f000.. => 0x7c00, // 65520 and above round to infinity
        // Below 2^-14, adding 0.5 leaves the nearest multiple of 2^-24 in the low bits.
        0..0x3880_0000 => ((f32::from_bits(magnitude) + 0.5).to_bits() - 0x3f00_0000) as u16,
        _ => ((magnitude + 0xfff + (magnitude >> 13 & 1) - (112 << 23)) >> 13) as u16,
    }
}

/// The nearest bfloat16's bits, ties to even. NaN stays NaN.
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if x.is_nan() { bits >> 16 | 64 } else { rounded }) as u16
}

/// Two little-endian bytes at `at` as binary16.
///
/// # Panics
/// If `bytes` is shorter than `at + 2`; callers pass whole blocks.
#[inline]
pub(crate) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

pub(crate) fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    for (src, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = f32::from_le_bytes(*src);
    }
}

pub(crate) fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    for (src, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = f16_to_f32(u16::from_le_bytes(*src));
    }
}

pub(crate) fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (src, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = bf16_to_f32(u16::from_le_bytes(*src));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every finite pattern against its definition in `f64`, which holds all of them.
    #[test]
    fn every_f16_is_exact() {
        for bits in 0..=u16::MAX {
            let (sign, exponent, fraction) = (bits >> 15, bits >> 10 & 31, f64::from(bits & 1023));
            let magnitude = match exponent {
                0 => fraction * 2f64.powi(-24),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                e => (1024.0 + fraction) * 2f64.powi(i32::from(e) - 25),
            };
            let want = if sign == 1 { -magnitude } else { magnitude };
            let got = f16_to_f32(bits);
            if want.is_nan() {
                let payload = u32::from(bits & 0x8000) << 16 | 0x7fc0_0000 | u32::from(bits & 1023) << 13;
                assert_eq!(got.to_bits(), payload, "{bits:#06x}");
            } else {
                assert_eq!(f64::from(got).to_bits(), want.to_bits(), "{bits:#06x}");
            }
        }
    }

    #[test]
    fn bf16_is_the_upper_half() {
        for bits in 0..=u16::MAX {
            assert_eq!(bf16_to_f32(bits).to_bits(), u32::from(bits) << 16);
        }
    }

    /// Every half is its own nearest, and what lies between two goes to the nearer, or the even one.
    #[test]
    fn rounding_is_to_the_nearest() {
        for (to, from, infinity) in
            [(f32_to_f16 as fn(f32) -> u16, f16_to_f32 as fn(u16) -> f32, 0x7c00), (f32_to_bf16, bf16_to_f32, 0x7f80)]
        {
            for bits in 0..infinity {
                let (a, b) = (from(bits), from(bits + 1));
                assert_eq!((to(a), to(-a)), (bits, bits | 0x8000));
                if bits + 1 < infinity {
                    let half = ((f64::from(a) + f64::from(b)) / 2.0) as f32;
                    assert_eq!(to(half), bits + (bits & 1), "between {a} and {b}");
                    assert_eq!(to(half.next_up()), bits + 1);
                    assert_eq!(to(half.next_down()), bits);
                }
            }
            assert!(from(to(f32::NAN)).is_nan());
            assert_eq!((to(f32::INFINITY), to(f32::MAX)), (infinity, infinity));
        }
    }
}
