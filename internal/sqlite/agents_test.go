package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/ahelme/comfyume/internal/agents"
	"github.com/ahelme/comfyume/internal/agents/agentstest"
	"github.com/ahelme/comfyume/internal/sqlite"
)

func TestAgents(t *testing.T) {
	t.Parallel()
	agentstest.Run(t, func(t *testing.T) agents.Store {
		return sqlite.NewAgents(open(t, filepath.Join(t.TempDir(), "studio.db")))
	})
}
