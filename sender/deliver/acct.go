package deliver

import (
	"slices"
	"strings"
	"sync"

	"carom/schemas/event"
	"carom/sender/config"
)

// Unaccounted returns what tells the events that accounting files leave out: those of the types that
// disable-acct-records names for their queue. The event log has them all the same. It is nil where no
// queue has any, and safe for concurrent use.
func Unaccounted(c *config.Config) func(e *event.Event) bool {
	if !c.DisablesRecords() {
		return nil
	}
	var mu sync.Mutex
	known := map[string][]config.RecordType{} // by queue
	return func(e *event.Event) bool {
		if e.Queue == "" {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		disabled, ok := known[e.Queue]
		if !ok {
			domain, vmta, _ := strings.Cut(e.Queue, "/")
			disabled = c.Domain(domain, vmta).DisableAcctRecords
			remember(known, e.Queue, disabled)
		}
		return slices.Contains(disabled, config.RecordType(e.Kind.PowerMTA()))
	}
}
