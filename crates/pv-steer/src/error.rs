//! What can go wrong with interventions, monitoring and sweeps.

use std::path::PathBuf;

use pv_hooks::Layer;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] pv_data::FileError),
    /// A run's folder: in use, of another run, or damaged.
    #[error(transparent)]
    Run(#[from] pv_data::RunError),
    /// A coefficient is in units of the residual's norm, but the direction does not know that norm.
    #[error("the direction at {layer} knows no mean residual norm; give a raw coefficient")]
    NoResidualNorm {
        /// Where the direction acts.
        layer: Layer,
    },
    /// A coefficient is not a finite number.
    #[error("the coefficient {value} at {layer} is not a finite number")]
    BadCoefficient {
        /// Where it would act.
        layer: Layer,
        /// What was given.
        value: f32,
    },
    /// A direction that has no length, or values that are not finite.
    #[error("the direction at {layer} is zero or not finite")]
    Degenerate {
        /// Where it would act.
        layer: Layer,
    },
    /// A threshold is not a finite number.
    #[error("the threshold {value} at {layer} is not a finite number")]
    BadThreshold {
        /// Where it would act.
        layer: Layer,
        /// What was given.
        value: f32,
    },
    /// A ramp of a coefficient that has no meaning.
    #[error("impossible ramp at {layer}: {reason}")]
    BadRamp {
        /// Where it would act.
        layer: Layer,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A condition on a layer that is computed after the one where the intervention acts.
    #[error("a condition at {condition} comes too late for an intervention at {layer}")]
    LateCondition {
        /// Where the condition is.
        condition: Layer,
        /// Where the intervention acts.
        layer: Layer,
    },
    /// Increments over a range without layers.
    #[error("a range without layers has no increments")]
    NoIncrements,
    /// A persona vector cannot give what was asked of it.
    #[error(transparent)]
    Vector(#[from] pv_vectors::Error),
    /// A mixture's matrix of coefficients does not fit its directions.
    #[error("unusable mixture: {reason}")]
    BadMatrix {
        /// What is wrong with it.
        reason: String,
    },
    /// A mixture has fewer rows of coefficients than are needed.
    #[error("a mixture of {rows} rows for {needed}")]
    TooFewRows {
        /// The rows that there are.
        rows: usize,
        /// How many requests or sequences there are.
        needed: usize,
    },
    /// Answers of one request have different mixtures, but share what is computed of the prompt.
    #[error(
        "sequences {first} and {second} of request {request} have different mixtures at prompt tokens that they share; \
         give them requests of their own, or act from the first generated token on (Positions::ResponseFrom(0))"
    )]
    SharedPrompt {
        /// The request.
        request: usize,
        /// One of its sequences.
        first: usize,
        /// Another, with another mixture.
        second: usize,
    },
    /// A control without directions, or with nothing but amounts of 0.
    #[error("no projection is to be moved")]
    NothingToMove,
    /// An amount by which a projection shall move is not a finite number.
    #[error("the amount {value} for direction {index} is not a finite number")]
    BadAmount {
        /// The direction's place in the list.
        index: usize,
        /// What was given.
        value: f64,
    },
    /// Directions that must be at one layer are not.
    #[error("direction {index} is at {found}, the first one at {expected}")]
    OtherLayer {
        /// The direction's place in the list.
        index: usize,
        /// The layer of the first.
        expected: Layer,
        /// Its layer.
        found: Layer,
    },
    /// Directions that must be of one width are not.
    #[error("direction {index} is {found} wide, the first one {expected}")]
    OtherWidth {
        /// The direction's place in the list.
        index: usize,
        /// The width of the first.
        expected: usize,
        /// Its width.
        found: usize,
    },
    /// Not one projection for each direction.
    #[error("{found} projections for {directions} directions")]
    ProjectionCount {
        /// How many directions there are.
        directions: usize,
        /// How many projections.
        found: usize,
    },
    /// Directions of which one can hardly be moved without another.
    #[error(
        "directions {first} and {second} (cosine {cosine:.6}) depend on each other, or on the others with them: the \
         condition number {condition:.3e} is too great"
    )]
    Dependent {
        /// A direction that takes a great part in the dependence, by its place in the list.
        first: usize,
        /// Another; the same one when there is no other.
        second: usize,
        /// The cosine between the two.
        cosine: f64,
        /// The condition number of the Gram matrix of all directions.
        condition: f64,
    },
    /// A sweep without strengths.
    #[error("there is no strength to steer with")]
    NoStrengths,
    /// A sweep without layers.
    #[error("there is no layer to steer at")]
    NoLayers,
    /// A trait without questions to measure on.
    #[error("the trait {trait_name:?} has no evaluation question")]
    NoQuestions {
        /// The trait.
        trait_name: String,
    },
    /// The judge gave no score at all, so that nothing can be compared.
    #[error("{judge} gave no score for {rubric:?} to any of {answers} answers")]
    NothingScored {
        /// The judge.
        judge: String,
        /// The rubric.
        rubric: String,
        /// How many answers it was asked about.
        answers: usize,
    },
    /// The judge returned fewer verdicts than it was asked for.
    #[error("{judge} gave {done} of {total} verdicts")]
    MissingVerdicts {
        /// The judge.
        judge: String,
        /// How many there are.
        done: usize,
        /// How many there must be.
        total: usize,
    },
    /// A layer that a sweep did not steer at.
    #[error("the sweep did not steer at {layer}")]
    NotInSweep {
        /// What was asked for.
        layer: Layer,
    },
    /// Nothing to compare log-probabilities of.
    #[error("there is no pair of answers")]
    NoPairs,
    /// An answer without tokens has no log-probability.
    #[error("the {side} answer of pair {pair} has no tokens")]
    EmptyAnswer {
        /// The pair's index.
        pair: usize,
        /// `pro` or `contra`.
        side: &'static str,
    },
    /// The callback broke the run off. What was done is kept.
    #[error("cancelled; what was done is kept")]
    Cancelled,
    /// A monitor without directions.
    #[error("there is no direction to watch")]
    NoWatches,
    /// Two directions that nothing tells apart.
    #[error("{trait_name} is watched twice at {layer}; give one of them another name")]
    WatchedTwice {
        /// The trait.
        trait_name: String,
        /// The layer.
        layer: Layer,
    },
    /// Something was asked about a direction that is not watched.
    #[error("{trait_name} is not watched at {}", layer.map_or("any layer".to_owned(), |layer| layer.to_string()))]
    NotWatched {
        /// The trait.
        trait_name: String,
        /// The layer; `None` for any.
        layer: Option<Layer>,
    },
    /// Readings of other directions than those at hand.
    #[error("a reading has {found} values, but {expected} directions are watched")]
    OtherReadings {
        /// How many directions are watched.
        expected: usize,
        /// How many values the reading has.
        found: usize,
    },
    /// A projection is a NaN or an infinity.
    #[error("a projection on {trait_name} at {layer} is not finite")]
    NotFinite {
        /// The trait.
        trait_name: String,
        /// The layer.
        layer: Layer,
    },
    /// A calibration on too few readings for what is asked of it.
    #[error("the calibration of {trait_name} at {layer} has {found} readings of the kind {kind}, too few for {what}")]
    TooFewReadings {
        /// The trait.
        trait_name: String,
        /// The layer.
        layer: Layer,
        /// The kind of reading.
        kind: &'static str,
        /// How many there are.
        found: u64,
        /// What was asked.
        what: String,
    },
    /// A calibration on too few answers for what is asked of it, however many tokens they have.
    #[error(
        "the calibration of {trait_name} at {layer} knows readings of the kind {kind} of {found} whole answers, too few for {what}"
    )]
    TooFewAnswers {
        /// The trait.
        trait_name: String,
        /// The layer.
        layer: Layer,
        /// The kind of reading.
        kind: &'static str,
        /// How many answers there are; 0 too where readings were taken in one by one, or by an earlier version.
        found: u64,
        /// What was asked.
        what: String,
    },
    /// A calibration that was made on something else.
    #[error("the calibration does not fit: its {what} is {found}, but {expected} is needed")]
    Misfit {
        /// What differs.
        what: String,
        /// What the calibration has.
        found: String,
        /// What is at hand.
        expected: String,
    },
    /// A file that does not hold what it should.
    #[error("{} is not {what}: {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A setting that makes no sense.
    #[error("{reason}")]
    BadSetting {
        /// What is wrong.
        reason: String,
    },
    /// The model, or its prompts.
    #[error(transparent)]
    Model(#[from] pv_model::Error),
    /// A rubric or a judge.
    #[error(transparent)]
    Judge(#[from] pv_judge::Error),
    /// A hook that does not fit.
    #[error(transparent)]
    Hook(#[from] pv_hooks::HookError),
}
