package control

import (
	"errors"
	"fmt"
	"time"
)

// Policy holds every threshold of Decide. The zero value is not usable; start from Default.
type Policy struct {
	// Step is the width of the buckets of evidence.
	Step time.Duration `yaml:"step"`
	// WindowMin and WindowMax bound how far back evidence of the present limit is read; between
	// them it reaches WindowMessages at the present rate.
	WindowMin      time.Duration `yaml:"window-min"`
	WindowMax      time.Duration `yaml:"window-max"`
	WindowMessages float64       `yaml:"window-messages"`
	// RecentWindow is looked at by itself too, so that a sudden drop is not hidden by a long
	// clean time under the same limit.
	RecentWindow time.Duration `yaml:"recent-window"`

	// LeastPerDay is how many attempts a day a key must have for the loop to care about it while nothing of it is
	// refused.
	LeastPerDay uint64 `yaml:"least-per-day"`

	Decrease    DecreasePolicy    `yaml:"decrease"`
	Cooldown    CooldownPolicy    `yaml:"cooldown"`
	Increase    IncreasePolicy    `yaml:"increase"`
	Probe       ProbePolicy       `yaml:"probe"`
	Suspend     SuspendPolicy     `yaml:"suspend"`
	Connections ConnectionsPolicy `yaml:"connections"`
	Messages    MessagesPolicy    `yaml:"messages-per-connection"`
	ListQuality ListQualityPolicy `yaml:"list-quality"`
	Greylisting GreylistPolicy    `yaml:"greylisting"`
	Warmup      WarmupPolicy      `yaml:"warm-up"`
	Hold        HoldPolicy        `yaml:"hold"`
	Restart     RestartPolicy     `yaml:"restart"`

	// AdviceEvery is how often a pinned key is told what the loop would do.
	AdviceEvery time.Duration `yaml:"advice-every"`
}

// DecreasePolicy says when refusals lower the rate, and by how much.
type DecreasePolicy struct {
	MinReplies  uint64  `yaml:"min-replies"`
	MinRefusals uint64  `yaml:"min-refusals"`
	Z           float64 `yaml:"z"`             // of the Wilson bound that is compared
	Share       float64 `yaml:"refused-share"` // the bound must be above it
	// UnclassifiedZ and UnclassifiedShare are the noise floor above which replies that nobody
	// could classify count as refusals.
	UnclassifiedZ     float64       `yaml:"unclassified-z"`
	UnclassifiedShare float64       `yaml:"unclassified-share"`
	MinTime           time.Duration `yaml:"min-time"`      // length of the evidence
	AfterFirst        time.Duration `yaml:"after-first"`   // data after the bucket of the first refusal
	AfterFirstFast    time.Duration `yaml:"after-refused"` // the same, if more than HeavyShare is refused
	SureAccepted      uint64        `yaml:"sure-accepted"` // or this many were accepted since: the rate is known within a tenth
	HeavyShare        float64       `yaml:"heavy-share"`
	Below             float64       `yaml:"below-accepted"`       // factor on the accepted rate
	BelowHeavy        float64       `yaml:"below-accepted-heavy"` // the same, to drain, over HeavyShare
	Deepest           float64       `yaml:"deepest"`              // smallest factor on the present rate
	DeepestHeavy      float64       `yaml:"deepest-heavy"`
	FewReplies        uint64        `yaml:"few-replies"` // with fewer, go down carefully:
	FewDeepest        float64       `yaml:"few-deepest"` // not below this factor,
	FewDeepestSure    float64       `yaml:"few-sure"`    // or this one if the bound is above FewSureShare
	FewSureShare      float64       `yaml:"few-sure-above"`
	CleanBack         float64       `yaml:"few-clean"` // nor the first time below this share of the last clean rate
	AtLeast           float64       `yaml:"at-least"`  // a decrease is at least to this factor
	GoalLost          float64       `yaml:"goal-lost"`
	GoalDecay         float64       `yaml:"goal-decay"`
	GoalWait          time.Duration `yaml:"goal-wait"`
	GoalWaitMax       time.Duration `yaml:"goal-wait-max"`
	Floor             float64       `yaml:"floor"`              // share of the long-term rate
	FloorRate         float64       `yaml:"floor-rate"`         // messages a second
	FloorUnclear      float64       `yaml:"floor-unclassified"` // share of the long-term rate if most refusals are unclassified
	FloorUnclearConf  float64       `yaml:"floor-unclassified-configured"`
	FloorUnclearUpTo  float64       `yaml:"floor-unclassified-up-to"` // while it is not sure that more is refused than this share
}

// CooldownPolicy says when refusals are a penalty and how it is waited out.
type CooldownPolicy struct {
	Chain      int           `yaml:"chain"` // decreases in a row from which it may be one
	Share      float64       `yaml:"refused-share"`
	CapLost    float64       `yaml:"capacity-lost"` // accepted rate under this share of the first in the row
	ChainSure  int           `yaml:"chain-sure"`    // decreases in a row that prove it
	FewSure    float64       `yaml:"few-sure"`      // with few replies, the refused share must surely be above it
	Below      float64       `yaml:"below-accepted"`
	Deepest    float64       `yaml:"deepest"`
	Wait       time.Duration `yaml:"wait"`
	WaitGrowth float64       `yaml:"wait-growth"`
	WaitMax    time.Duration `yaml:"wait-max"`
}

// IncreasePolicy says when the rate goes up, and by how much.
type IncreasePolicy struct {
	MinTime     time.Duration `yaml:"min-time"`
	MinReplies  uint64        `yaml:"min-replies"`
	CleanShare  float64       `yaml:"clean-share"` // refusals up to this share, plus one, are clean
	Binding     float64       `yaml:"binding"`     // attempts as a share of the limit from which it binds
	Max         float64       `yaml:"max"`         // largest factor of one increase
	Recover     float64       `yaml:"recover"`     // factor towards the capacity
	RecoverEdge float64       `yaml:"recover-below"`
	RecoverTo   float64       `yaml:"recover-to"`
	Startup     float64       `yaml:"startup"`       // factor while no capacity is known
	StartupOver float64       `yaml:"startup-above"` // the same above the configured rate
	Goal        float64       `yaml:"goal"`          // factor towards the goal
	GoalFar     float64       `yaml:"goal-far"`      // the same while under GoalFarEdge of it
	GoalFarEdge float64       `yaml:"goal-far-below"`
	GoalRetry   float64       `yaml:"goal-retry"` // the same after a failed recovery
	GoalEdge    float64       `yaml:"goal-below"`
	GoalTo      float64       `yaml:"goal-to"`
}

// ProbePolicy says when and how far the loop looks above the capacity that it knows.
type ProbePolicy struct {
	Interval       time.Duration `yaml:"interval"`
	IntervalGrowth float64       `yaml:"interval-growth"` // while the capacity stays the same
	IntervalMax    time.Duration `yaml:"interval-max"`
	IntervalLow    time.Duration `yaml:"interval-low"` // at most, far under the long-term rate
	LowShare       float64       `yaml:"low-share"`
	SameShare      float64       `yaml:"same-share"` // difference within which the capacity stayed the same
	Messages       float64       `yaml:"messages"`   // at least this many messages between two probes
	MinReplies     uint64        `yaml:"min-replies"`
	Step           float64       `yaml:"step"` // first step, as a share
	NearEdge       float64       `yaml:"near-edge"`
	NearGrowth     float64       `yaml:"near-growth"`
	NearMax        float64       `yaml:"near-max"`
	FarGrowth      float64       `yaml:"far-growth"`
	FarMax         float64       `yaml:"far-max"`
}

// SuspendPolicy says when a key is suspended, how canaries go out and when it comes back.
type SuspendPolicy struct {
	Window       time.Duration `yaml:"window"`
	WindowMax    time.Duration `yaml:"window-max"` // while Window holds fewer than FewReplies
	FewReplies   uint64        `yaml:"few-replies"`
	MinReplies   uint64        `yaml:"min-replies"`
	BlockShare   float64       `yaml:"block-share"`
	OutageShare  float64       `yaml:"outage-share"`
	AllReplies   uint64        `yaml:"all-replies"`
	AllShare     float64       `yaml:"all-share"`
	Canary       time.Duration `yaml:"canary"`        // between two canaries
	CanaryOutage time.Duration `yaml:"canary-outage"` // the same in an outage
	CanaryFast   time.Duration `yaml:"canary-fast"`   // the same once one was accepted
	// A block that is CanaryAge times the time between two canaries old gets half as many, and one
	// that will not clear by itself sooner; the time grows up to CanaryMax.
	CanaryAge          float64       `yaml:"canary-age"`
	CanaryAgePermanent float64       `yaml:"canary-age-permanent"`
	CanaryMax          time.Duration `yaml:"canary-max"`
	CanaryMaxPermanent time.Duration `yaml:"canary-max-permanent"`
	Accepted           uint64        `yaml:"accepted"` // canaries that end it
	AcceptedIn         time.Duration `yaml:"accepted-in"`
	Back               float64       `yaml:"back"` // share of the capacity to come back with
	BackOutage         float64       `yaml:"back-outage"`
	ProbeAfter         time.Duration `yaml:"probe-after"`
	ColdShare          float64       `yaml:"cold-share"` // of the configured rate, if no capacity was known
}

// ConnectionsPolicy says when the number of connections changes.
type ConnectionsPolicy struct {
	MinRefusals uint64        `yaml:"min-refusals"`
	Share       float64       `yaml:"refused-share"`
	Window      time.Duration `yaml:"window"`
	Wait        time.Duration `yaml:"wait"`      // after a failed probe
	WaitDrop    time.Duration `yaml:"wait-drop"` // after another drop
	WaitGrowth  float64       `yaml:"wait-growth"`
	WaitMax     time.Duration `yaml:"wait-max"`
	CleanTime   time.Duration `yaml:"clean-time"`
	Steps       uint32        `yaml:"step-max"` // raises are 1, 2, 4 … up to this
	Waiting     float64       `yaml:"waiting"`  // share of nodes with backlog above which connections may bind
	Open        float64       `yaml:"open"`     // share of the limit that must have been open
}

// MessagesPolicy says when the number of messages per connection changes.
type MessagesPolicy struct {
	Hold     time.Duration `yaml:"hold"`     // after the receiver named its limit
	Interval time.Duration `yaml:"interval"` // between two raises
	Max      uint32        `yaml:"max"`
}

// RestartPolicy says what is left of the capacity of before when the loop stood still until its leases ended.
type RestartPolicy struct {
	Share    float64       `yaml:"share"`     // of the capacity to come back with
	Old      time.Duration `yaml:"old"`       // after standing still for so long
	OldShare float64       `yaml:"old-share"` // it is this share
	Forget   time.Duration `yaml:"forget"`    // and after so long the configuration holds
}

// ListQualityPolicy forbids to speed up into a bad list.
type ListQualityPolicy struct {
	Z            float64 `yaml:"z"`
	UserShare    float64 `yaml:"unknown-user-share"`
	ContentShare float64 `yaml:"content-share"`
}

// GreylistPolicy says when refusals that nobody could classify are greylisting: first attempts are
// refused and retries at the same time are not.
type GreylistPolicy struct {
	Pair         time.Duration `yaml:"pair"`          // first attempts and retries within it are compared;
	PairMax      time.Duration `yaml:"pair-max"`      // it reaches up to this
	PairMessages float64       `yaml:"pair-messages"` // for so many messages at the present rate
	Window       time.Duration `yaml:"window"`
	First        uint64        `yaml:"min-first"`
	Retries      uint64        `yaml:"min-retries"`
	Z            float64       `yaml:"z"`
	FirstShare   float64       `yaml:"first-share"` // refused share of first attempts, surely above it
	RetryShare   float64       `yaml:"retry-share"` // that of retries, surely under this share of the bound
	OverWindow   time.Duration `yaml:"over-window"` // it is over if in this window
	OverRetries  uint64        `yaml:"over-retries"`
	OverShare    float64       `yaml:"over-share"` // this share of at least so many retries is refused
}

// Default returns the thresholds that were tuned in simulation (design/control.md section 4).
func Default() Policy {
	return Policy{
		Step:      10 * time.Second,
		WindowMin: 15 * time.Minute, WindowMax: 2 * time.Hour, WindowMessages: 40,
		RecentWindow: 40 * time.Second, LeastPerDay: 200,
		Decrease: DecreasePolicy{
			MinReplies: 10, MinRefusals: 2, Z: 1.28, Share: 0.02,
			UnclassifiedZ: 1.64, UnclassifiedShare: 0.02,
			MinTime: 15 * time.Second, AfterFirst: 20 * time.Second, AfterFirstFast: 10 * time.Second, SureAccepted: 100, HeavyShare: 0.3,
			Below: 0.90, BelowHeavy: 0.70, Deepest: 0.2, DeepestHeavy: 0.1,
			FewReplies: 30, FewDeepest: 0.75, FewDeepestSure: 0.5, FewSureShare: 0.15, CleanBack: 0.95, AtLeast: 0.95,
			GoalLost: 0.5, GoalDecay: 0.8, GoalWait: 2 * time.Minute, GoalWaitMax: 10 * time.Minute,
			Floor: 0.02, FloorRate: 1.0 / 60, FloorUnclear: 0.15, FloorUnclearConf: 0.1, FloorUnclearUpTo: 0.9,
		},
		Cooldown: CooldownPolicy{
			Chain: 2, Share: 0.1, CapLost: 0.6, ChainSure: 4, FewSure: 0.02, Below: 0.35, Deepest: 0.05,
			Wait: 5 * time.Minute, WaitGrowth: 1.5, WaitMax: 20 * time.Minute,
		},
		Increase: IncreasePolicy{
			MinTime: 30 * time.Second, MinReplies: 10, CleanShare: 0.01, Binding: 0.8, Max: 1.5,
			Recover: 1.5, RecoverEdge: 0.94, RecoverTo: 0.96, Startup: 1.5, StartupOver: 1.2,
			Goal: 1.35, GoalFar: 1.6, GoalFarEdge: 0.4, GoalRetry: 1.2, GoalEdge: 0.9, GoalTo: 0.92,
		},
		Probe: ProbePolicy{
			Interval: 4 * time.Minute, IntervalGrowth: 1.5, IntervalMax: 20 * time.Minute,
			IntervalLow: 5 * time.Minute, LowShare: 0.3, SameShare: 0.2, Messages: 60, MinReplies: 30,
			Step: 0.06, NearEdge: 1.25, NearGrowth: 1.2, NearMax: 0.10, FarGrowth: 1.7, FarMax: 0.40,
		},
		Suspend: SuspendPolicy{
			Window: 30 * time.Second, WindowMax: 5 * time.Minute, FewReplies: 8,
			MinReplies: 5, BlockShare: 0.5, OutageShare: 0.6, AllReplies: 12, AllShare: 0.97,
			Canary: 30 * time.Second, CanaryOutage: 15 * time.Second, CanaryFast: 8 * time.Second,
			CanaryAge: 40, CanaryAgePermanent: 2, CanaryMax: 30 * time.Minute, CanaryMaxPermanent: 10 * time.Minute,
			Accepted: 2, AcceptedIn: 3 * time.Minute, Back: 0.4, BackOutage: 0.7, ProbeAfter: 5 * time.Minute,
			ColdShare: 0.25,
		},
		Connections: ConnectionsPolicy{
			MinRefusals: 3, Share: 0.02, Window: 5 * time.Minute,
			Wait: 5 * time.Minute, WaitDrop: 200 * time.Second, WaitGrowth: 1.5, WaitMax: 15 * time.Minute,
			CleanTime: 45 * time.Second, Steps: 8, Waiting: 0.5, Open: 0.8,
		},
		Messages:    MessagesPolicy{Hold: 6 * time.Hour, Interval: 10 * time.Minute, Max: 100},
		ListQuality: ListQualityPolicy{Z: 1.64, UserShare: 0.05, ContentShare: 0.02},
		Greylisting: GreylistPolicy{
			Pair: time.Minute, PairMax: 15 * time.Minute, PairMessages: 10, Window: time.Hour,
			First: 15, Retries: 4, Z: 1.64, FirstShare: 0.05, RetryShare: 0.6,
			OverWindow: 10 * time.Minute, OverRetries: 5, OverShare: 0.15,
		},
		Warmup: WarmupPolicy{
			Day: 24 * time.Hour, FirstPerHour: 100, Growth: 1.6, UsedShare: 0.4,
			RefusedShare: 0.05, HoldShare: 0.12, ComplaintShare: 0.001, SilentDays: 3,
		},
		Hold: HoldPolicy{
			PriorShare: 0.0005, PriorDelivered: 2000, Share: 0.003, Z: 1.282, Delivered: 2000, Recipients: 5,
			Explains: 0.7, GoodShare: 0.001, TrickleAfter: 6 * time.Hour, Trickle: 0.02, MaxVolume: 0.2, MaxHoldsPerHour: 3,
		},
		Restart:     RestartPolicy{Share: 0.8, Old: 24 * time.Hour, OldShare: 0.4, Forget: 30 * 24 * time.Hour},
		AdviceEvery: time.Hour,
	}
}

// Validate returns every threshold that makes no sense, joined.
func (p *Policy) Validate() error {
	var errs []error
	durations := map[string]time.Duration{
		"step": p.Step, "window-min": p.WindowMin, "recent-window": p.RecentWindow,
		"decrease.min-time": p.Decrease.MinTime, "decrease.after-first": p.Decrease.AfterFirst,
		"decrease.after-refused": p.Decrease.AfterFirstFast, "increase.min-time": p.Increase.MinTime,
		"probe.interval": p.Probe.Interval, "suspend.window": p.Suspend.Window, "suspend.canary": p.Suspend.Canary,
		"suspend.canary-outage": p.Suspend.CanaryOutage, "suspend.canary-fast": p.Suspend.CanaryFast,
		"cooldown.wait": p.Cooldown.Wait, "connections.window": p.Connections.Window,
		"connections.clean-time": p.Connections.CleanTime, "messages-per-connection.interval": p.Messages.Interval,
		"suspend.canary-max": p.Suspend.CanaryMax, "suspend.canary-max-permanent": p.Suspend.CanaryMaxPermanent, "greylisting.pair": p.Greylisting.Pair, "greylisting.window": p.Greylisting.Window,
		"greylisting.over-window": p.Greylisting.OverWindow, "warm-up.day": p.Warmup.Day, "advice-every": p.AdviceEvery,
		"restart.old": p.Restart.Old, "restart.forget": p.Restart.Forget,
	}
	for name, d := range durations {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("%s is %v, want a positive duration", name, d))
		}
	}
	if p.WindowMax < p.WindowMin || p.Suspend.WindowMax < p.Suspend.Window {
		errs = append(errs, errors.New("window-max is smaller than the window it bounds"))
	}
	shares := map[string]float64{
		"decrease.refused-share": p.Decrease.Share, "decrease.heavy-share": p.Decrease.HeavyShare,
		"decrease.below-accepted": p.Decrease.Below, "decrease.below-accepted-heavy": p.Decrease.BelowHeavy,
		"decrease.deepest": p.Decrease.Deepest, "decrease.deepest-heavy": p.Decrease.DeepestHeavy,
		"decrease.at-least": p.Decrease.AtLeast, "decrease.few-clean": p.Decrease.CleanBack, "decrease.few-deepest": p.Decrease.FewDeepest,
		"decrease.few-sure": p.Decrease.FewDeepestSure, "decrease.floor": p.Decrease.Floor,
		"decrease.floor-unclassified": p.Decrease.FloorUnclear, "decrease.floor-unclassified-configured": p.Decrease.FloorUnclearConf,
		"cooldown.below-accepted": p.Cooldown.Below, "cooldown.deepest": p.Cooldown.Deepest,
		"increase.binding": p.Increase.Binding, "increase.recover-below": p.Increase.RecoverEdge, "increase.recover-to": p.Increase.RecoverTo,
		"suspend.block-share": p.Suspend.BlockShare, "suspend.outage-share": p.Suspend.OutageShare, "suspend.all-share": p.Suspend.AllShare,
		"suspend.back": p.Suspend.Back, "suspend.back-outage": p.Suspend.BackOutage, "suspend.cold-share": p.Suspend.ColdShare,
		"connections.refused-share": p.Connections.Share,
		"greylisting.first-share":   p.Greylisting.FirstShare, "greylisting.retry-share": p.Greylisting.RetryShare, "greylisting.over-share": p.Greylisting.OverShare,
		"warm-up.used-share": p.Warmup.UsedShare, "warm-up.refused-share": p.Warmup.RefusedShare, "warm-up.hold-share": p.Warmup.HoldShare,
		"warm-up.complaint-share": p.Warmup.ComplaintShare,
		"hold.prior-share":        p.Hold.PriorShare, "hold.complaint-share": p.Hold.Share, "hold.explains": p.Hold.Explains, "hold.good-share": p.Hold.GoodShare,
		"restart.share": p.Restart.Share, "restart.old-share": p.Restart.OldShare,
		"hold.trickle": p.Hold.Trickle, "hold.max-volume": p.Hold.MaxVolume,
	}
	for name, x := range shares {
		if !(x > 0 && x <= 1) {
			errs = append(errs, fmt.Errorf("%s is %v, want more than 0 and at most 1", name, x))
		}
	}
	factors := map[string]float64{
		"increase.max": p.Increase.Max, "increase.recover": p.Increase.Recover, "increase.startup": p.Increase.Startup,
		"increase.startup-above": p.Increase.StartupOver, "increase.goal": p.Increase.Goal, "increase.goal-far": p.Increase.GoalFar,
		"increase.goal-retry": p.Increase.GoalRetry, "probe.interval-growth": p.Probe.IntervalGrowth, "cooldown.wait-growth": p.Cooldown.WaitGrowth,
		"warm-up.growth": p.Warmup.Growth,
	}
	for name, x := range factors {
		if !(x >= 1 && x <= 10) {
			errs = append(errs, fmt.Errorf("%s is %v, want 1 to 10", name, x))
		}
	}
	if !(p.Warmup.FirstPerHour > 0) || p.Warmup.SilentDays < 1 {
		errs = append(errs, errors.New("warm-up.first-per-hour and warm-up.silent-days: want more than 0"))
	}
	if !(p.Suspend.CanaryAge >= 1 && p.Suspend.CanaryAgePermanent >= 1) {
		errs = append(errs, errors.New("suspend.canary-age and suspend.canary-age-permanent: want 1 or more"))
	}
	if !(p.Hold.PriorDelivered > 0) {
		errs = append(errs, errors.New("hold.prior-delivered: want more than 0"))
	}
	return errors.Join(errs...)
}
