//! Rare branches that a run must have met, so that nobody believes in a simulation that never gets there.

/// Things that happen seldom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rare {
    TwinReadsBlockInFlight,
    EvictedWhileAdmittingWithHit,
    EvictedForDecode,
    PromptInChunks,
    ChunksOfOnePromptInFlight,
    ChunkCutByTime,
    LeastChunk,
    DecodeStalledAtFence,
    PreemptedWithRowsInFlight,
    PreemptedInPrefill,
    FinishedAfterPreemption,
    ResumedWithHit,
    ResumedWithoutHit,
    OvershootDropped,
    SlotReusedInOnePlan,
    StopAtLastToken,
    StopHeldOffByMinimum,
    CancelledInLine,
    CancelledInPrefill,
    CancelledInFlight,
    CancelledAfterPreemption,
    DeadlineInLine,
    DeadlineInSlot,
    QueueFull,
    QueueTokensFull,
    NeverFits,
    TooLong,
    StepFailedAhead,
    FollowerVoided,
    ReaderRolledBack,
    StepFailedForGood,
    DecodesTookTurns,
    SequenceFailedInPrefill,
    SequenceFailedAhead,
    FormerTenantFailed,
    GroupLostInFlight,
    GroupLostBetweenTrials,
    LostWhilePreempted,
    ResumedAfterLoss,
    ClearedBesideOthers,
    TriedAlone,
    OthersBetweenTrials,
    PassedInLine,
    SuspectUnseated,
    StrikeForgotten,
    Quarantined,
    NoLongerFits,
    Evacuated,
    LateResultRefused,
    DraftsAccepted,
    DraftsRefused,
    StopAmongDrafts,
    LengthReachedByDraft,
    DraftsRefusedAhead,
    DraftsOfPreempted,
    TakenUpAgain,
}

impl Rare {
    const NUM: usize = Self::TakenUpAgain as usize + 1;
    const ALL: [Self; Self::NUM] = [
        Self::TwinReadsBlockInFlight,
        Self::EvictedWhileAdmittingWithHit,
        Self::EvictedForDecode,
        Self::PromptInChunks,
        Self::ChunksOfOnePromptInFlight,
        Self::ChunkCutByTime,
        Self::LeastChunk,
        Self::DecodeStalledAtFence,
        Self::PreemptedWithRowsInFlight,
        Self::PreemptedInPrefill,
        Self::FinishedAfterPreemption,
        Self::ResumedWithHit,
        Self::ResumedWithoutHit,
        Self::OvershootDropped,
        Self::SlotReusedInOnePlan,
        Self::StopAtLastToken,
        Self::StopHeldOffByMinimum,
        Self::CancelledInLine,
        Self::CancelledInPrefill,
        Self::CancelledInFlight,
        Self::CancelledAfterPreemption,
        Self::DeadlineInLine,
        Self::DeadlineInSlot,
        Self::QueueFull,
        Self::QueueTokensFull,
        Self::NeverFits,
        Self::TooLong,
        Self::StepFailedAhead,
        Self::FollowerVoided,
        Self::ReaderRolledBack,
        Self::StepFailedForGood,
        Self::DecodesTookTurns,
        Self::SequenceFailedInPrefill,
        Self::SequenceFailedAhead,
        Self::FormerTenantFailed,
        Self::GroupLostInFlight,
        Self::GroupLostBetweenTrials,
        Self::LostWhilePreempted,
        Self::ResumedAfterLoss,
        Self::ClearedBesideOthers,
        Self::TriedAlone,
        Self::OthersBetweenTrials,
        Self::PassedInLine,
        Self::SuspectUnseated,
        Self::StrikeForgotten,
        Self::Quarantined,
        Self::NoLongerFits,
        Self::Evacuated,
        Self::LateResultRefused,
        Self::DraftsAccepted,
        Self::DraftsRefused,
        Self::StopAmongDrafts,
        Self::LengthReachedByDraft,
        Self::DraftsRefusedAhead,
        Self::DraftsOfPreempted,
        Self::TakenUpAgain,
    ];
}

/// How often each rare thing has happened, and how much was simulated.
#[derive(Debug, Clone)]
pub(crate) struct Coverage {
    hits: [u64; Rare::NUM],
    /// Plans with at least one row.
    pub(crate) num_steps: u64,
    pub(crate) num_rows: u64,
    pub(crate) num_requests: u64,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { hits: [0; Rare::NUM], num_steps: 0, num_rows: 0, num_requests: 0 }
    }
}

impl Coverage {
    pub(crate) fn hit(&mut self, rare: Rare) {
        self.hits[rare as usize] += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.hits.iter_mut().zip(other.hits) {
            *mine += theirs;
        }
        self.num_steps += other.num_steps;
        self.num_rows += other.num_rows;
        self.num_requests += other.num_requests;
    }

    pub(crate) fn counts(&self) -> impl Iterator<Item = (Rare, u64)> {
        Rare::ALL.into_iter().map(|rare| (rare, self.hits[rare as usize]))
    }

    pub(crate) fn missed(&self) -> Vec<Rare> {
        self.counts().filter(|&(_, hits)| hits == 0).map(|(rare, _)| rare).collect()
    }
}

/// Notes a rare branch when it is met.
macro_rules! sometimes {
    ($coverage:expr, $condition:expr, $rare:ident) => {
        if $condition {
            $coverage.hit(super::coverage::Rare::$rare);
        }
    };
}
pub(crate) use sometimes;
