//! Matrices of 8-bit floats (E4M3, arXiv:2209.05433) with scales in tensors of their own: one for each block of rows and
//! columns (`weight_scale_inv`, DeepSeek-V3, whose last blocks may be smaller), or one for a row or for all (`weight_scale`).

use alula_format::safetensors::SafeTensors;
use alula_tensor::{Tensor, f16_to_f32};
use std::ops::Range;

/// What safetensors call the type.
pub(crate) const TYPE: &str = "F8_E4M3";

/// Rows and columns of a block where the configuration does not say.
pub(crate) const BLOCK: (usize, usize) = (128, 128);

/// Rows `part` (all: `None`) of the matrix of that name in single precision; `Err` says what is wrong with it.
pub(crate) fn matrix(
    store: &SafeTensors,
    name: &str,
    block: (usize, usize),
    part: Option<Range<usize>>,
) -> Result<Tensor, String> {
    let info = store.info(name).ok_or("is missing")?;
    let [rows, cols] = *info.shape() else {
        return Err(format!("is FP8 of shape {:?}; only matrices are", info.shape()));
    };
    let codes = store.bytes(name).ok_or("is missing")?;
    let blocks = format!("{name}_scale_inv");
    let scale_name = if store.info(&blocks).is_some() { blocks } else { format!("{name}_scale") };
    let Some(scales_info) = store.info(&scale_name) else {
        return Err(format!("is FP8 and has no scales: neither `{name}_scale_inv` nor `{name}_scale` is there"));
    };
    let shape = scales_info.shape();
    let scales = store.tensor(&scale_name).map_err(|e| e.to_string())?.to_f32();
    let per_block = scale_name.ends_with("_inv");
    let (down, across) = match (per_block, shape) {
        (true, _) => block,
        (false, [] | [1] | [1, 1]) => (rows.max(1), cols.max(1)),
        (false, [n] | [n, 1]) if *n == rows => (1, cols.max(1)),
        _ => (0, 0),
    };
    let wide = if across > 0 { cols.div_ceil(across) } else { 0 };
    if down == 0 || across == 0 || per_block && *shape != [rows.div_ceil(down), wide] {
        let of = if per_block { format!(" in blocks of {down} × {across}") } else { String::new() };
        return Err(format!(
            "is {rows} × {cols}{of}, which `{scale_name}` of shape {:?} does not fit",
            scales_info.shape()
        ));
    }
    let row = |(r, codes): (usize, &[u8])| -> Vec<f32> {
        let scales = &scales[r / down * wide..];
        codes.iter().enumerate().map(|(c, code)| value(*code) * scales[c / across]).collect()
    };
    let part = part.filter(|p| p.end <= rows).unwrap_or(0..rows);
    let codes = codes.chunks_exact(cols.max(1)).enumerate().skip(part.start).take(part.len());
    let values: Vec<f32> = codes.flat_map(row).collect();
    Tensor::from_f32(vec![part.len(), cols], &values).map_err(|e| e.to_string())
}

/// A code's value: sign, four bits of exponent, three of fraction; no infinities, one NaN of each sign.
fn value(code: u8) -> f32 {
    if code & 0x7f == 0x7f {
        return f32::NAN;
    }
    // The same number in half precision is 2⁸ times smaller, as its exponents begin lower.
    let half = u16::from(code & 0x80) << 8 | u16::from(code & 0x7f) << 7;
    f16_to_f32(half) * 256.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_what_the_format_says() {
        for code in 0..=255u8 {
            let (e, f) = (i32::from(code >> 3 & 15), f64::from(code & 7) / 8.0);
            let want = if e == 0 { f * 2f64.powi(-6) } else { (1.0 + f) * 2f64.powi(e - 7) };
            let want = if code & 0x80 != 0 { -want } else { want };
            match code & 0x7f {
                0x7f => assert!(value(code).is_nan()),
                _ => assert_eq!(f64::from(value(code)), want, "{code:#x}"),
            }
        }
    }

    fn file(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> SafeTensors {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, dtype, shape, bytes) in tensors {
            let start = data.len();
            data.extend(bytes);
            let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
            header.insert((*name).into(), entry);
        }
        let header = serde_json::Value::Object(header).to_string();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        SafeTensors::from_bytes(bytes, "test").unwrap()
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn scales_meet_their_blocks() {
        // 0x38 is 1.
        let ones = || ("w", TYPE, &[3, 5][..], vec![0x38; 15]);
        type Entry<'a> = (&'a str, &'a str, &'a [usize], Vec<u8>);
        fn scales<'a>(name: &'a str, shape: &'a [usize], values: &[f32]) -> Entry<'a> {
            (name, "F32", shape, floats(values))
        }
        let read = |scales: Entry<'_>, block| matrix(&file(&[ones(), scales]), "w", block, None).map(|t| t.to_f32());
        let got = read(scales("w_scale_inv", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), (2, 2)).unwrap();
        assert_eq!(got, [1., 1., 2., 2., 3., 1., 1., 2., 2., 3., 4., 4., 5., 5., 6.]);
        let file_of = file(&[ones(), scales("w_scale_inv", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]);
        let some = matrix(&file_of, "w", (2, 2), Some(1..3)).unwrap();
        assert_eq!((some.shape(), some.to_f32()), (&[2, 5][..], got[5..].to_vec()));
        let got = read(scales("w_scale", &[3, 1], &[1.0, 2.0, 3.0]), BLOCK).unwrap();
        assert_eq!(got, [1., 1., 1., 1., 1., 2., 2., 2., 2., 2., 3., 3., 3., 3., 3.]);
        assert_eq!(read(scales("w_scale", &[], &[0.5]), BLOCK).unwrap(), [0.5; 15]);
        for (bad, block) in [
            (scales("w_scale_inv", &[2, 2], &[1.0; 4]), (2, 2)),
            (scales("w_scale_inv", &[3, 2], &[1.0; 6]), (2, 2)),
            (scales("w_scale_inv", &[2, 3], &[1.0; 6]), (0, 2)),
            (scales("w_scale", &[2], &[1.0; 2]), BLOCK),
        ] {
            let why = read(bad, block).unwrap_err();
            assert!(why.contains("does not fit"), "{why}");
        }
        let why = matrix(&file(&[ones()]), "w", BLOCK, None).unwrap_err();
        assert!(why.contains("has no scales"), "{why}");
        let why = matrix(&file(&[("w", TYPE, &[15], vec![0x38; 15])]), "w", BLOCK, None).unwrap_err();
        assert!(why.contains("only matrices"), "{why}");
    }
}
