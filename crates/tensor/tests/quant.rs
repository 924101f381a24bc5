//! Every format against what gguf-py decodes (`tools/goldens_quant.py`; it also holds gguf-py against C ggml).

use alula_tensor::{DType, FORMATS, Format, Storage, Tensor};
use alula_testkit::{Golden, same_bits};

fn golden() -> Golden {
    Golden::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/quant.safetensors"))
}

fn check(format: &Format, got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{}", format.name);
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!(same_bits(got, want), "{} {what} element {i}: {got:e}, not {want:e}", format.name);
    }
}

#[test]
fn decoding_equals_gguf_py_to_the_bit() {
    let golden = golden();
    assert_eq!(golden.names().count(), 2 * FORMATS.len());
    for format in FORMATS {
        let bytes = golden.bytes(&format!("{}.bytes", format.name));
        let want = golden.f32(&format!("{}.f32", format.name));
        assert_eq!(want.iter().filter(|v| v.is_finite()).count().min(32), 32);
        let mut got = vec![f32::NAN; want.len()];
        (format.decode)(bytes, &mut got);
        check(format, &got, &want, "decoded");

        let rows = bytes.len() / format.bytes;
        let tensor = Tensor::new(format.dtype, vec![rows, format.block], Storage::from(bytes.to_vec()), 0..bytes.len());
        let tensor = tensor.expect("whole blocks");
        check(format, &tensor.to_f32(), &want, "tensor");
        let mut row = vec![0.0; format.block];
        tensor.row_f32(rows - 1, &mut row);
        check(format, &row, &want[want.len() - format.block..], "row");
    }
}

#[test]
fn codes_give_the_same_values_and_keep_to_their_table() {
    let golden = golden();
    for format in FORMATS {
        let Some(view) = format.codes else {
            assert!(matches!(format.dtype, DType::F32 | DType::F16 | DType::BF16));
            continue;
        };
        let (bytes, want) =
            (golden.bytes(&format!("{}.bytes", format.name)), golden.f32(&format!("{}.f32", format.name)));
        let mut seen = std::collections::BTreeSet::new();
        for (block, want) in bytes.chunks(format.bytes).zip(want.chunks(format.block)) {
            let groups = format.block / view.group;
            let (mut codes, mut scales, mut mins) = (vec![i8::MIN; format.block], vec![7; groups], vec![7; groups]);
            let [d, dmin] = (view.unpack)(block, &mut codes, &mut scales, &mut mins);
            if let Some(table) = view.table {
                assert!(codes.iter().all(|c| (0..16).contains(c)), "{}", format.name);
                codes.iter_mut().for_each(|c| *c = table[*c as usize]);
            }
            let value = |i: usize| {
                let product = d * f32::from(scales[i / view.group]) * f32::from(codes[i]);
                if view.has_min { product - dmin * f32::from(mins[i / view.group]) } else { product }
            };
            let got: Vec<f32> = (0..format.block).map(value).collect();
            check(format, &got, want, "codes");
            let all_one = view.has_scales || scales.iter().chain(&mins).all(|&s| s == 1);
            assert!(all_one, "{} has scales that its row denies", format.name);
            let in_range = |c: &i8| (0..1 << view.bits).contains(&(i32::from(*c) - i32::from(view.low)));
            assert!(codes.iter().all(in_range), "{}", format.name);
            seen.extend(codes);
        }
        if let Some(table) = view.table {
            assert!(table.iter().all(|v| seen.contains(v)), "{}: the blocks must use the whole table", format.name);
        }
    }
}

/// Any bytes at all decode without a panic, whatever their scales.
#[test]
fn every_byte_pattern_decodes() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    for format in FORMATS {
        let mut out = vec![0.0; format.block];
        for fill in 0..=255u8 {
            (format.decode)(&vec![fill; format.bytes], &mut out);
        }
        for _ in 0..500 {
            let block: Vec<u8> = (0..format.bytes).map(|_| next()).collect();
            (format.decode)(&block, &mut out);
        }
    }
}
