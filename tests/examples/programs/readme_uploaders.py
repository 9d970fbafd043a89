# fmt: off
"""The README's custom uploaders as they stand there."""

from audiomdb.uploaders.base import BaseUploader
import paramiko
import ftplib

class SFTPUploader(BaseUploader):
    """Upload to SFTP server"""
    
    def __init__(self, hostname, username, password, remote_path, **kwargs):
        super().__init__(**kwargs)
        self.hostname = hostname
        self.username = username  
        self.password = password
        self.remote_path = remote_path
    
    def upload_dir(self, local_dir):
        transport = paramiko.Transport((self.hostname, 22))
        transport.connect(username=self.username, password=self.password)
        sftp = paramiko.SFTPClient.from_transport(transport)
        
        try:
            sftp.mkdir(self.remote_path)
        except:
            pass  # Directory might exist
        
        for full_path, rel_path in self.iter_files(local_dir):
            remote_file = f"{self.remote_path}/{rel_path}"
            remote_dir = "/".join(remote_file.split("/")[:-1])
            try:
                sftp.mkdir(remote_dir) 
            except:
                pass
            
            sftp.put(full_path, remote_file)
            print(f"Uploaded {rel_path}")
        
        sftp.close()
        transport.close()

class WebDAVUploader(BaseUploader):
    """Upload to WebDAV server"""
    
    def __init__(self, webdav_url, username, password, **kwargs):
        super().__init__(**kwargs)
        self.webdav_url = webdav_url
        self.username = username
        self.password = password
    
    def upload_dir(self, local_dir):
        from webdav3.client import Client
        
        options = {
            'webdav_hostname': self.webdav_url,
            'webdav_login': self.username,
            'webdav_password': self.password
        }
        client = Client(options)
        
        for full_path, rel_path in self.iter_files(local_dir):
            client.upload_sync(remote_path=rel_path, local_path=full_path)
            print(f"Uploaded {rel_path}")
