//! Plans of weights that were kept: the same bits, and the source is not asked for them.

use crate::{LIMITS, Step, Weights, model, sequence};
use alula_device::{Cpu, CpuDevice, Device, Keep, Plan, kept};
use alula_graph::WeightSource;
use alula_tensor::{DType, Tensor};

/// A source that lacks the matrices that only products use.
struct Without<'a>(&'a Weights);

impl WeightSource for Without<'_> {
    fn tensor(&self, name: &str) -> Result<Tensor, String> {
        let t = self.0.tensor(name)?;
        let matrix = t.shape().len() > 1 && !["tokens", "positions"].contains(&name);
        if matrix { Err("it was asked for".into()) } else { Ok(t) }
    }

    fn kind(&self, name: &str) -> Result<(DType, bool), String> {
        self.0.kind(name)
    }
}

#[test]
fn kept_weights_give_the_same_bits_at_every_level() {
    let folder = std::env::temp_dir().join(format!("alula-plan-kept-{}", std::process::id()));
    _ = std::fs::remove_dir_all(&folder);
    let ids = sequence(1, 40);
    let run = |plan: &mut Box<dyn Plan>| {
        let mut step = Step::default();
        step.add(&ids, 0..40, &[3]);
        step.run(&mut **plan).expect("logits").iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    for (identity, dtype) in [(1, DType::F32), (2, DType::BF16), (3, DType::Q8_0)] {
        let (graph, weights) = model(dtype);
        let keep = Keep {
            folder: folder.clone(),
            name: "model".into(),
            source: format!("{dtype}"),
            identity,
            files: Vec::new(),
            least: 1,
        };
        let compile = |cpu: Cpu, source: &dyn WeightSource, keep: Option<&Keep>| {
            let mut last = (0, 1);
            let device = CpuDevice::new(cpu, 2);
            let plan = device.compile(&graph, source, LIMITS, keep, &mut |done, all| last = (done, all));
            assert!(plan.is_err() || last.0 == last.1);
            plan
        };
        let cpus = Cpu::all();
        let mut plain = compile(cpus[0], &weights, None).expect("a plan");
        assert!(compile(cpus[0], &Without(&weights), Some(&keep)).is_err(), "nothing is kept yet");
        let mut first = compile(cpus[0], &weights, Some(&keep)).expect("a plan");
        let want = run(&mut plain);
        assert_eq!(run(&mut first), want);
        drop(first); // until it is written
        for cpu in cpus {
            let mut plan = compile(cpu, &Without(&weights), Some(&keep)).expect("kept weights");
            assert_eq!((run(&mut plan), plan.memory()), (want.clone(), plain.memory()), "{dtype}, {}", cpu.name());
            // What is mapped stays when its file goes.
            if cpu.name() == Cpu::all()[0].name() {
                let file = kept::list(&folder).expect("a folder").remove(0).file;
                let away = file.with_extension("away");
                std::fs::rename(&file, &away).expect("renamed");
                assert_eq!(run(&mut plan), want);
                std::fs::rename(away, file).expect("renamed");
            }
        }
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
