// The worker's jobs, one at a time: a new one ends the one before.

export class Jobs {
  /** `onProgress(task, share)` while a job runs, and `onProgress(null)` when none does. */
  constructor(onProgress) {
    this.onProgress = onProgress;
    this.id = 0;
    this.settle = null; // ends the job that runs: with its answer, or with an error
    this.worker = new Worker("worker.js", { type: "module" });
    this.worker.onerror = () => this.settle?.(null, "the codec could not be started; is the folder whole?");
    this.worker.onmessage = ({ data }) => {
      if (data.id !== this.id) return;
      if (data.done === undefined) this.settle?.(data, data.error);
      else this.onProgress(this.task, data.done);
    };
  }

  /** Its answer: the result, and the seconds that it took. Null if another job has ended it, or the user. */
  run(job, task, data = {}) {
    this.settle?.(null);
    this.id += 1; // the worker ends the job before when it sees this one
    this.task = task;
    this.onProgress(task, 0);
    this.worker.postMessage({ id: this.id, job, ...data });
    return new Promise((resolve, reject) => {
      this.settle = (answer, error) => {
        this.settle = null;
        this.onProgress(null);
        if (error) reject(new Error(error));
        else resolve(answer);
      };
    });
  }

  cancel() {
    if (!this.settle) return;
    this.settle(null);
    this.id += 1;
    this.worker.postMessage({ id: this.id, job: "cancel" });
  }
}
