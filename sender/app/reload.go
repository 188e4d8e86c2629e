package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"carom/schemas/service"
	"carom/sender/admin"
	"carom/sender/config"
	"carom/sender/deliver"
)

// RunFile is Run with the configuration in the named file, which it reads again on SIGHUP and by
// order of an operator. version is that of carom.
func RunFile(ctx context.Context, file, version string, logger *slog.Logger, ready func(addresses []string)) error {
	c, err := load(file, logger)
	if err != nil {
		return err
	}
	n := newNode(c, logger)
	n.version = version
	n.file = file
	return n.start(ctx, ready)
}

// load reads a configuration and logs what it warns of.
func load(file string, logger *slog.Logger) (*config.Config, error) {
	c, warnings, err := config.Load(file)
	for _, w := range warnings {
		logger.Warn("configuration", "place", w.Pos.String(), "warning", w.Message)
	}
	return c, err
}

// onHangup begins new accounting files and puts a changed configuration in force at each SIGHUP, until
// ctx is done.
func (n *node) onHangup(ctx context.Context, hangups <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangups:
		}
		n.rotate(ctx)
		if n.file != "" {
			_, _ = n.Reload(ctx, "SIGHUP") // it logs what is wrong
		}
	}
}

// hangups returns a channel of SIGHUPs, which end the process no more, and what gives them back. One
// that comes while another is answered is kept.
func hangups() (received chan os.Signal, stop func()) {
	received = make(chan os.Signal, 1)
	signal.Notify(received, syscall.SIGHUP)
	return received, func() { signal.Stop(received) }
}

// Reload is part of admin.Node: it reads the configuration again and puts it in force. One with
// mistakes changes nothing. actor is who asked for it.
func (n *node) Reload(ctx context.Context, actor string) (*admin.Reloaded, error) {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	if n.file == "" {
		return nil, service.Configf("the node was not started from a file")
	}
	c, warnings, err := config.Load(n.file)
	if err != nil {
		n.logger.Error("configuration not reloaded, the one in force stays", "file", n.file, "error", err)
		return nil, err
	}
	old := n.config.Load()
	answer := &admin.Reloaded{Hash: c.HashText(), Changed: c.Hash() != old.Hash(), Restart: n.started.NeedsRestart(c), Warnings: []string{}}
	for _, w := range warnings {
		answer.Warnings = append(answer.Warnings, w.String())
	}
	if err := n.apply(c); err != nil {
		n.logger.Error("configuration not reloaded, the one in force stays", "file", n.file, "error", err)
		return nil, &service.ConfigError{Err: err}
	}
	n.logger.Info("configuration reloaded", "file", n.file, "hash", answer.Hash, "changed", answer.Changed)
	text := fmt.Sprintf("configuration %s put in force by %s", answer.Hash, actor)
	if answer.Changed {
		text += ", was " + old.HashText()
	} else {
		text += ", the same as before"
	}
	if len(answer.Restart) > 0 {
		n.logger.Warn("the node goes on with what it started with until it is restarted", "directives", strings.Join(answer.Restart, ", "))
		text += "; not before a restart: " + strings.Join(answer.Restart, ", ")
	}
	if err := n.annotate(context.WithoutCancel(ctx), "reload", text, actor); err != nil {
		return nil, err
	}
	return answer, nil
}

// apply puts a configuration in force: first all that can fail is made ready, then it is swapped.
func (n *node) apply(c *config.Config) error {
	put, err := n.agent.Prepare(c)
	if err != nil {
		return fmt.Errorf("%s: %w", n.file, err)
	}
	put()
	n.throttle.LimitPeers(deliver.PeerLimits(c))
	n.config.Store(c)
	n.recorder.SetConfigHash(c.Hash())
	n.recorder.Categorize(categories(c))
	n.server.Reload(c)
	if n.queues != nil {
		n.queues.Unpark() // adaptive-hold may have changed; sessions park again what is still held
	}
	return nil
}
