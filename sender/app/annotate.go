package app

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"carom/schemas/atomicfile"
	"carom/schemas/clock"
	"carom/schemas/event"
)

// annotate writes a note into the annotation stream.
func (n *node) annotate(ctx context.Context, name, text string, tags ...string) error {
	record := event.EncodeAnnotation(nil, &event.Annotation{
		FormatVersion: event.FormatVersion, Time: clock.Now().UTC(), Name: name, Text: text, Tags: tags,
	})
	if _, err := n.notes.Append(ctx, record); err != nil {
		return fmt.Errorf("annotations: %w", err)
	}
	return nil
}

// noteDelivery writes a change of mode or of a source into the annotation stream. The session that saw
// it waits for the disk; such changes are rare.
func (n *node) noteDelivery(name, text string) {
	if err := n.annotate(context.Background(), name, text, "delivery"); err != nil {
		n.logger.Error("annotation not written", "error", err)
	}
}

// versionFile holds the version that ran last, beside the first spool.
const versionFile = "version"

// annotateStart notes that the node started, and before that, that its version is another one than at the
// last start.
func (n *node) annotateStart(ctx context.Context, live int) error {
	file := filepath.Join(n.config.Load().Spools[0].Dir, versionFile)
	data, err := os.ReadFile(file) //nolint:gosec // the node's own file
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("version of the last start: %w", err)
	}
	if last := strings.TrimSpace(string(data)); last != n.version {
		if last != "" {
			if err := n.annotate(ctx, "upgrade", fmt.Sprintf("carom %s, was %s", n.version, last), n.version); err != nil {
				return err
			}
		}
		if err := atomicfile.Write(file, func(w io.Writer) error {
			_, err := io.WriteString(w, n.version+"\n")
			return err
		}); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("node started with configuration %s, %d recipients in the spool", n.config.Load().HashText(), live)
	return n.annotate(ctx, "start", text, n.version)
}

// annotateStop notes that the node stops; cause is why, nil if it was told to.
func (n *node) annotateStop(ctx context.Context, cause error) error {
	why := "as it was told to"
	if cause != nil {
		why = "because of an error: " + cause.Error()
	}
	return n.annotate(ctx, "stop", fmt.Sprintf("node stopped %s, %d recipients in the spool", why, n.spool.Stats().Recipients), n.version)
}
