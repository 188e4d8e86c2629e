package deliver

import (
	"slices"
	"strings"
	"sync"

	"carom/schemas/event"
	"carom/sender/config"
)

// Unaccounted returns what tells the events that accounting files leave out: those of the types that
// disable-acct-records names for their queue in the configuration in force, which current returns. The
// event log has them all the same. It is safe for concurrent use.
func Unaccounted(current func() *config.Config) func(e *event.Event) bool {
	var mu sync.Mutex
	var of *config.Config
	known := map[string][]config.RecordType{} // by queue, as of says
	return func(e *event.Event) bool {
		c := current()
		if e.Queue == "" || !c.DisablesRecords() {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		if of != c {
			of = c
			clear(known)
		}
		disabled, ok := known[e.Queue]
		if !ok {
			domain, vmta, _ := strings.Cut(e.Queue, "/")
			disabled = c.Domain(domain, vmta).DisableAcctRecords
			remember(known, e.Queue, disabled)
		}
		return slices.Contains(disabled, config.RecordType(e.Kind.PowerMTA()))
	}
}
