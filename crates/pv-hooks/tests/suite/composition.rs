//! Composed hooks, and the check before a run.

use std::sync::{Arc, Mutex};

use burn::tensor::{Device, Tensor};
use proptest::prelude::*;
use pv_hooks::hook::check;
use pv_hooks::tokens::RowSpans;
use pv_hooks::{Hook, HookError, Layer, LayerSet, ModelShape, NoHook, Phase, ResidualContext};

use crate::support::{SHAPE, layers, spans, tensor, values};

/// The calls, in order.
type Log = Arc<Mutex<Vec<String>>>;

/// `x ← a·x + b` at some layers. Records every call, and returns an error when told to.
#[derive(Clone, Debug)]
struct Affine {
    name: &'static str,
    layers: LayerSet,
    a: f32,
    b: f32,
    complains: bool,
    log: Log,
}

impl Affine {
    fn new(name: &'static str, layers: impl Into<LayerSet>) -> Self {
        Self { name, layers: layers.into(), a: 1.0, b: 0.0, complains: false, log: Log::default() }
    }

    fn complaining(self) -> Self {
        Self { complains: true, ..self }
    }

    fn logged(self, log: &Log) -> Self {
        Self { log: log.clone(), ..self }
    }

    fn complaint(&self) -> Result<(), HookError> {
        if self.complains { Err(HookError::NeverFired { hook: self.name() }) } else { Ok(()) }
    }

    fn write(&self, what: &str) {
        self.log.lock().expect("a log").push(format!("{} {what}", self.name));
    }
}

impl Hook for Affine {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn layers(&self) -> LayerSet {
        self.layers.clone()
    }

    fn validate(&self, shape: &ModelShape) -> Result<(), HookError> {
        self.write(&format!("validates {}", shape.d_model));
        self.complaint()
    }

    fn on_residual(&mut self, context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        self.write(&format!("at {}", context.layer.index()));
        residual * self.a + self.b
    }

    fn finish(&mut self) -> Result<(), HookError> {
        self.write("ends");
        self.complaint()
    }
}

/// Everything that can be observed of a hook.
#[derive(Debug, PartialEq)]
struct Seen {
    layers: LayerSet,
    wanted: Vec<bool>,
    /// The result at each requested layer for a residual of 3.
    outputs: Vec<f32>,
    ended: Result<(), HookError>,
    log: Vec<String>,
}

fn seen(hook: &mut dyn Hook, log: &Log) -> Seen {
    log.lock().expect("a log").clear();
    let checked = check(hook, &SHAPE, None);
    let spans = spans(vec![RowSpans::prompt(vec![0], 0, 1)], 1);
    let wanted: Vec<bool> = layers().map(|layer| hook.wants(layer)).collect();
    let mut outputs = Vec::new();
    for layer in layers().filter(|layer| wanted[layer.index()]) {
        let context = ResidualContext { layer, phase: Phase::Prefill, spans: &spans };
        outputs.extend(values(hook.on_residual(&context, tensor(vec![3.0], [1, 1, 1], &Device::flex()))));
    }
    let ended = hook.finish();
    assert_eq!(checked, ended, "both complain alike");
    let log = std::mem::take(&mut *log.lock().expect("a log"));
    Seen { layers: hook.layers(), wanted, outputs, ended, log }
}

/// The same for members that act one after the other, without composing them.
fn naive(members: &[Affine]) -> Seen {
    let wants = |layer: Layer| members.iter().filter(move |m| m.layers.contains(layer));
    let wanted: Vec<bool> = layers().map(|layer| wants(layer).next().is_some()).collect();
    let acting = layers().filter(|layer| wanted[layer.index()]);
    let outputs = acting.map(|layer| wants(layer).fold(3.0, |x, m| x * m.a + m.b)).collect();
    let complaints = members.iter().filter(|m| m.complains);
    // The check ends at the first error; the end of a run reaches every member.
    let asked = members.iter().position(|m| m.complains).map_or(members.len(), |first| first + 1);
    let mut log: Vec<_> = members[..asked].iter().map(|m| format!("{} validates {}", m.name, SHAPE.d_model)).collect();
    for layer in layers() {
        log.extend(wants(layer).map(|m| format!("{} at {}", m.name, layer.index())));
    }
    log.extend(members.iter().map(|m| format!("{} ends", m.name)));
    Seen {
        layers: members.iter().map(|m| m.layers.clone()).fold(LayerSet::none(), LayerSet::union),
        wanted,
        outputs,
        ended: complaints.map(Affine::complaint).find(Result::is_err).unwrap_or(Ok(())),
        log,
    }
}

fn member(name: &'static str) -> impl Strategy<Value = Affine> {
    let layers = prop_oneof![
        1 => Just(LayerSet::All),
        4 => prop::collection::btree_set((0..=SHAPE.blocks).prop_map(Layer::hidden_state), 0..3)
            .prop_map(LayerSet::These),
    ];
    let whole = (-3..4i8).prop_map(f32::from);
    (layers, whole.clone(), whole, prop::bool::weighted(0.15)).prop_map(move |(layers, a, b, complains)| Affine {
        a,
        b,
        complains,
        ..Affine::new(name, layers)
    })
}

proptest! {
    #[test]
    fn however_hooks_are_put_together_they_act_in_order(
        a in member("a"), b in member("b"), c in member("c"), d in member("d")
    ) {
        let log = Log::default();
        let members = [a, b, c, d].map(|member| member.logged(&log));
        let expected = naive(&members);
        let all = || members.clone();
        let boxed = |member: Affine| Box::new(member) as Box<dyn Hook>;

        prop_assert_eq!(&seen(&mut all().to_vec(), &log), &expected, "Vec");
        prop_assert_eq!(&seen(&mut &mut all()[..], &log), &expected, "slice");
        prop_assert_eq!(&seen(&mut all().map(boxed).into_iter().collect::<Vec<_>>(), &log), &expected, "Vec of boxes");
        let with_gaps = all().into_iter().flat_map(|member| [None, Some(member)]);
        prop_assert_eq!(&seen(&mut with_gaps.collect::<Vec<_>>(), &log), &expected, "Vec of options");
        let [a, b, c, d] = all();
        prop_assert_eq!(&seen(&mut (a, b, c, d), &log), &expected, "tuple of four");
        let [a, b, c, d] = all();
        prop_assert_eq!(&seen(&mut ((a, b), (c, d)), &log), &expected, "pair of pairs");
        let [a, b, c, d] = all();
        prop_assert_eq!(&seen(&mut (a, NoHook, (b, c, Some(d))), &log), &expected, "nested, with nothing inside");
        let [mut a, b, c, mut d] = all();
        let mut borrowed = (&mut a, Some(Box::new(vec![b, c])), boxed(d.clone()));
        prop_assert_eq!(&seen(&mut borrowed, &log), &expected, "mixed");
        prop_assert_eq!(&seen(&mut (borrowed.0, borrowed.1, &mut d as &mut dyn Hook), &log), &expected, "again");
    }
}

#[test]
fn order_matters() {
    let double = || Affine { a: 2.0, ..Affine::new("double", LayerSet::All) };
    let add = || Affine { b: 1.0, ..Affine::new("add", Layer::EMBEDDINGS) };
    let log = Log::default();
    assert_eq!(seen(&mut (double(), add()), &log).outputs, [7.0, 6.0, 6.0, 6.0]);
    assert_eq!(seen(&mut (add(), double()), &log).outputs, [8.0, 6.0, 6.0, 6.0]);
}

#[test]
fn a_group_is_called_by_its_members_names() {
    let of = |name| Affine::new(name, LayerSet::All);
    assert_eq!((of("a"), of("b")).name(), "a + b");
    assert_eq!((of("a"), (of("b"), of("c"))).name(), "a + b + c");
    assert_eq!(vec![of("a"), of("b"), of("c")].name(), "a + b + c");
    assert_eq!(Some(Box::new(of("a"))).name(), "a");
}

#[test]
fn nothing_does_nothing() {
    let log = Log::default();
    let nothing = naive(&[]);
    assert_eq!(seen(&mut NoHook, &log), nothing);
    assert_eq!(seen(&mut None::<Affine>, &log), nothing);
    assert_eq!(seen(&mut Vec::<Affine>::new(), &log), nothing);
    assert_eq!(seen(&mut (NoHook, NoHook), &log), nothing);
}

fn wanting(name: &'static str, layer: usize) -> Affine {
    Affine::new(name, Layer::hidden_state(layer))
}

#[test]
fn a_layer_that_the_model_lacks_is_refused() {
    let error = |hook: &dyn Hook| check(hook, &SHAPE, None).expect_err("a layer too many");
    let expected =
        HookError::LayerOutOfRange { hook: "late".into(), layer: Layer::hidden_state(4), last: Layer::hidden_state(3) };
    let (fine, late) = (wanting("fine", 3), wanting("late", 4));
    assert_eq!(check(&fine, &SHAPE, None), Ok(()));
    assert_eq!(error(&late), expected);
    assert_eq!(error(&(fine.clone(), late.clone())), expected);
    assert_eq!(error(&(fine.clone(), (NoHook, Some(late.clone())))), expected);
    assert_eq!(error(&vec![Box::new(fine) as Box<dyn Hook>, Box::new(late.clone())]), expected);
    // A member that requests all layers does not hide it.
    assert_eq!(error(&(Affine::new("all", LayerSet::All), late)), expected);
}

#[test]
fn a_layer_that_the_pass_does_not_reach_is_refused() {
    let stop = Some(Layer::hidden_state(1));
    let error = |hook: &dyn Hook| check(hook, &SHAPE, stop).expect_err("a layer too many");
    let expected =
        HookError::LayerAfterStop { hook: "late".into(), layer: Layer::hidden_state(2), stop: Layer::hidden_state(1) };
    let (fine, mut late) = (wanting("fine", 1), wanting("late", 2));
    assert_eq!(check(&fine, &SHAPE, stop), Ok(()));
    assert_eq!(error(&late), expected);
    assert_eq!(error(&(fine.clone(), late.clone())), expected);
    assert_eq!(error(&((fine.clone(), NoHook), vec![Some(late.clone())])), expected);
    // A hook that requests all layers gets the existing ones, and does not hide the request of another member.
    let all = Affine::new("all", LayerSet::All);
    assert_eq!(check(&all, &SHAPE, stop), Ok(()));
    assert_eq!(error(&(all.clone(), late.clone())), expected);
    assert_eq!(error(&vec![fine, all.clone(), late.clone()]), expected);
    assert_eq!(error(&(Box::new(all), &mut late)), expected);
}

#[test]
fn a_layer_beyond_the_model_is_no_matter_of_stopping() {
    let found = check(&wanting("late", 4), &SHAPE, Some(Layer::EMBEDDINGS));
    assert!(matches!(found, Err(HookError::LayerOutOfRange { .. })), "{found:?}");
}

#[test]
fn a_member_that_does_not_fit_is_heard() {
    let odd = || wanting("odd", 1).complaining();
    let expected = Err(HookError::NeverFired { hook: "odd".into() });
    assert_eq!(check(&odd(), &SHAPE, None), expected);
    assert_eq!(check(&(wanting("fine", 1), odd()), &SHAPE, None), expected);
    assert_eq!(check(&Some((NoHook, vec![Box::new(odd())])), &SHAPE, None), expected);
}

#[test]
fn every_member_is_ended_and_the_first_error_returned() {
    let log = Log::default();
    let members = || {
        let [a, b, c] = ["a", "b", "c"].map(|name| wanting(name, 1).logged(&log));
        (a.complaining(), b, c.complaining())
    };
    let (a, b, c) = members();
    for hook in [&mut members() as &mut dyn Hook, &mut vec![a, b, c]] {
        log.lock().expect("a log").clear();
        assert_eq!(hook.finish(), Err(HookError::NeverFired { hook: "a".into() }));
        assert_eq!(*log.lock().expect("a log"), ["a ends", "b ends", "c ends"]);
    }
}

/// Does nothing at a layer, and agrees to share a prefix of some sequences.
#[derive(Clone)]
struct Agreeing(usize);

impl Hook for Agreeing {
    fn name(&self) -> String {
        "agreeing".to_owned()
    }

    fn layers(&self) -> LayerSet {
        LayerSet::All
    }

    fn validate(&self, _shape: &ModelShape) -> Result<(), HookError> {
        Ok(())
    }

    fn on_residual(&mut self, _context: &ResidualContext<'_>, residual: Tensor<3>) -> Tensor<3> {
        residual
    }

    fn shares_prefix(&self, sequences: &[usize]) -> bool {
        sequences.iter().all(|sequence| *sequence < self.0)
    }
}

#[test]
fn a_prefix_is_shared_if_all_members_agree() {
    let agrees = |hook: &dyn Hook| hook.shares_prefix(&[0, 3]);
    let (yes, no) = (Agreeing(4), Agreeing(3));
    assert!(agrees(&NoHook) && agrees(&Affine::new("nowhere", LayerSet::none())) && agrees(&None::<Affine>));
    assert!(!agrees(&Affine::new("somewhere", Layer::EMBEDDINGS)), "by default, a hook needs all it asks for");
    assert!(
        agrees(&(yes.clone(), NoHook))
            && agrees(&vec![yes.clone(), yes.clone()])
            && agrees(&Some(Box::new(yes.clone())))
    );
    assert!(!agrees(&(yes.clone(), no.clone())) && !agrees(&(NoHook, yes.clone(), Some(no.clone()))));
    assert!(!agrees(&vec![yes.clone(), no.clone()]) && !agrees(&Box::new(no.clone())) && !agrees(&&mut no.clone()));
    assert!(agrees(&Vec::<Agreeing>::new()));
}
