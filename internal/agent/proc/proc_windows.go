package proc

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// tree is the job object that the program and all it starts are in. Closing it ends them, so they also end with us.
type tree struct {
	mu  sync.Mutex // job is 0 once the program has ended
	job windows.Handle
}

// prepare has the program wait for adopt before it runs: the python of a venv starts the real one at once, and that one
// has to be in the job already. A group of its own gets Ctrl-Break without us.
func (p *process) prepare() {
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		CreationFlags: windows.CREATE_SUSPENDED | windows.CREATE_NEW_PROCESS_GROUP, HideWindow: true,
	}
}

func (p *process) adopt() error {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return fmt.Errorf("making a job object: %w", err)
	}
	p.tree.mu.Lock()
	p.tree.job = job
	p.tree.mu.Unlock()
	limits := windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION{
		BasicLimitInformation: windows.JOBOBJECT_BASIC_LIMIT_INFORMATION{LimitFlags: windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE},
	}
	if _, err := windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation,
		uintptr(unsafe.Pointer(&limits)), uint32(unsafe.Sizeof(limits))); err != nil {
		return fmt.Errorf("setting up the job object: %w", err)
	}
	pid := uint32(p.PID())
	handle, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, pid)
	if err != nil {
		return fmt.Errorf("opening the program: %w", err)
	}
	defer windows.CloseHandle(handle) //nolint:errcheck // nothing more is done with it
	if err := windows.AssignProcessToJobObject(job, handle); err != nil {
		return fmt.Errorf("putting the program into its job object: %w", err)
	}
	return resume(pid)
}

// resume lets the threads of a suspended program run.
func resume(pid uint32) error {
	all, err := windows.CreateToolhelp32Snapshot(windows.TH32CS_SNAPTHREAD, 0)
	if err != nil {
		return fmt.Errorf("listing threads: %w", err)
	}
	defer windows.CloseHandle(all) //nolint:errcheck // nothing more is done with it
	entry := windows.ThreadEntry32{Size: uint32(unsafe.Sizeof(windows.ThreadEntry32{}))}
	resumed := 0
	for err = windows.Thread32First(all, &entry); err == nil; err = windows.Thread32Next(all, &entry) {
		if entry.OwnerProcessID != pid {
			continue
		}
		thread, err := windows.OpenThread(windows.THREAD_SUSPEND_RESUME, false, entry.ThreadID)
		if err != nil {
			return fmt.Errorf("opening the program's thread: %w", err)
		}
		_, err = windows.ResumeThread(thread)
		windows.CloseHandle(thread) //nolint:errcheck // nothing more is done with it
		if err != nil {
			return fmt.Errorf("letting the program run: %w", err)
		}
		resumed++
	}
	if resumed == 0 {
		return fmt.Errorf("the program has no thread to run")
	}
	return nil
}

func (p *process) release() {
	p.tree.mu.Lock()
	defer p.tree.mu.Unlock()
	if p.tree.job != 0 {
		windows.CloseHandle(p.tree.job) //nolint:errcheck // whoever was in it has ended
		p.tree.job = 0
	}
}

// interrupt is Ctrl-Break, the only key that reaches another group.
func (p *process) interrupt() {
	windows.GenerateConsoleCtrlEvent(windows.CTRL_BREAK_EVENT, uint32(p.PID())) //nolint:errcheck // without a console only Stop's end is left
}

func (p *process) killTree() {
	p.tree.mu.Lock()
	defer p.tree.mu.Unlock()
	if p.tree.job != 0 {
		windows.TerminateJobObject(p.tree.job, 1) //nolint:errcheck // they may have ended
	}
}

// accounting is JOBOBJECT_BASIC_ACCOUNTING_INFORMATION of winnt.h.
type accounting struct {
	TotalUserTime, TotalKernelTime, ThisPeriodTotalUserTime, ThisPeriodTotalKernelTime int64 // in 100 ns
	TotalPageFaultCount, TotalProcesses, ActiveProcesses, TotalTerminatedProcesses     uint32
}

// jobObjectBasicAccountingInformation is the number of that question in winnt.h.
const jobObjectBasicAccountingInformation = 1

// Work counts the whole job: the python of a venv only waits for the real one.
func (p *process) Work() (w Work, ok bool) {
	p.tree.mu.Lock()
	defer p.tree.mu.Unlock()
	if p.tree.job == 0 {
		return Work{}, false
	}
	var a accounting
	if err := windows.QueryInformationJobObject(p.tree.job, jobObjectBasicAccountingInformation,
		uintptr(unsafe.Pointer(&a)), uint32(unsafe.Sizeof(a)), nil); err != nil {
		return Work{}, false
	}
	return Work{Used: time.Duration(a.TotalUserTime+a.TotalKernelTime) * 100}, true
}

func exitOf(state *os.ProcessState) Exit { return Exit{Code: state.ExitCode()} }

// killed is never told here: Windows kills nobody when memory runs out, it refuses more.
func killed(Exit) bool { return false }

func oomKills() uint64 { return 0 }
