package account

import (
	"carom/ingest/classify"
	"carom/schemas/event"
)

// SetVerdict fills the fields of e that the classifier gives, PowerMTA's category among them.
func SetVerdict(e *event.Event, v classify.Verdict) {
	e.Category, e.Class, e.Dimension = v.Category, v.Class, v.Dimension
	e.Scope, e.ScopeValue = v.Scope, v.ScopeValue
	e.ClassifierVersion = classify.Version
	e.PMTACategory = v.Category.PowerMTA()
}
