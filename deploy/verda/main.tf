# Serverless GPU containers for a ComfyuME studio: each answers one request a job, so that it does not matter which of
# them the balancer chooses. All deployments are made of the same words, so that none of them can lack a setting.

locals {
  port = 8000
}

resource "verda_container" "studio" {
  for_each = var.deployments

  name    = each.key
  is_spot = each.value.spot

  compute = {
    name = each.value.gpu
    size = 1
  }

  container_registry_settings = {
    is_private  = var.registry_credential == "" ? "false" : "true"
    credentials = var.registry_credential == "" ? null : var.registry_credential
  }

  scaling = {
    min_replica_count               = 0 # the studio raises it by plan: warm in its settings
    max_replica_count               = each.value.max
    concurrent_requests_per_replica = 1    # a ComfyUI runs one job at a time; a second one would wait inside
    queue_message_ttl_seconds       = 1800 # longer than a cold start with a large model

    scale_up_policy = {
      delay_seconds = 0
    }

    scale_down_policy = {
      delay_seconds = 300
    }

    queue_load = {
      threshold = 1
    }
  }

  containers = [
    {
      image        = var.image
      exposed_port = local.port

      healthcheck = {
        enabled = "true"
        port    = tostring(local.port)
        path    = "/healthz"
      }

      entrypoint_overrides = {
        enabled    = true
        entrypoint = ["comfyume"]
        cmd = [
          "agent",
          "--listen", ":${local.port}",
          "--key", "env:COMFYUME_AGENT_KEY",
          "--comfyui-dir", var.comfyui_dir,
          "--comfyui-extra-model-paths-config", "/mnt/sfs/extra_model_paths.yaml",
          "--comfyui-verbose", "INFO",
          "--comfyui-log-stdout",
        ]
      }

      env = [
        {
          type                         = "secret"
          name                         = "COMFYUME_AGENT_KEY"
          value_or_reference_to_secret = var.agent_key_secret
        },
      ]

      volume_mounts = [
        {
          type       = "shared"
          mount_path = "/mnt/sfs"
          volume_id  = var.volume_id
        },
      ]
    },
  ]

  lifecycle {
    # The studio raises the minimum before a class and takes it back; applying these files in between changes nothing.
    ignore_changes = [scaling.min_replica_count]
  }
}
