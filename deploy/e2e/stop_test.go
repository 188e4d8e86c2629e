package e2e

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"
)

// stopMessages is what TestStop hands over, at the rate of TestKill.
const stopMessages = 1500

// TestStop tells carom up to stop in the middle of the mail, and starts it again: a clean stop
// finishes what is in flight, so nothing is lost and nothing at all is sent twice.
func TestStop(t *testing.T) {
	y := startSystem(t, killScenario, unlimited)
	loaded := make(chan loadResult, 1)
	go func() { loaded <- y.load(t.Context(), stopMessages) }()
	y.awaitFlow(t, stopMessages/4)

	before := y.upPID()
	asked := time.Now()
	if err := syscall.Kill(before, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// The supervisor of the test starts it again, as an operator would.
	await(t, 20*time.Second, "its end and its next start", func(ctx context.Context) error {
		if pid := y.upPID(); pid == 0 || pid == before {
			return fmt.Errorf("process %d after %d", pid, before)
		}
		return y.ready(ctx)
	})
	t.Logf("stopped and up again after %s", time.Since(asked).Round(time.Millisecond))
	result := <-loaded
	result.check(t, stopMessages)
	y.awaitRest(t, 30*time.Second)

	w := y.whole(t)
	t.Logf("receivers took %d recipients; load: %+v", len(w.received), result.summary)
	t.Run("nothing accepted is lost", func(t *testing.T) { w.checkNothingLost(t) })
	t.Run("every recipient has one end", func(t *testing.T) { w.checkOneEnd(t, result.summary, nil) })
	t.Run("nothing is sent twice", func(t *testing.T) { w.checkDuplicates(t, nil) })
	t.Run("accepted recipients add up", func(t *testing.T) { y.checkIdentity(t) })
}

// upPID returns the process id of carom up, 0 while it does not run.
func (y *system) upPID() int {
	for _, s := range y.supervisor.States() {
		if s.Name == victimUp {
			return s.PID
		}
	}
	return 0
}
